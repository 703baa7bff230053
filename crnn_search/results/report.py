"""A run's result files become `report.json`, and that becomes Markdown, HTML and plots.

`write_report` is the only place that opens the test images, after every choice has been made.
`assemble` computes all figures; `markdown` only puts `report.json` into words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from torch import Tensor

from crnn_search.data.sequences import TRAINING_IMAGES, Digits, SequenceTable, testing_table
from crnn_search.errors import RunError
from crnn_search.hyperparameters import MNIST_CRNN_2016, MNIST_SHAPE, TrialConfig
from crnn_search.results import scores
from crnn_search.results.html import to_html
from crnn_search.results.importance import importances
from crnn_search.results.markdown import LEARNING_CURVES, RMSE_BY_LENGTH, Report, render
from crnn_search.storage import ledger, stages
from crnn_search.storage.files import read_json, write_json, write_text
from crnn_search.storage.journal import SEARCH, History, read_history
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import METRIC, TrialRecord
from crnn_search.training import checkpoint
from crnn_search.training.footprint import parameter_count
from crnn_search.training.model import CRNN
from crnn_search.training.predict import predict

TIMED = ("start", SEARCH, "finalists", "retrain")
"""The stages whose durations are shown."""

PUBLISHED = (
    {"name": "mnistCRNN README, 2016", "rmse": 1.17},
    {"name": "mnistCRNN README, 2018 (ImageNet MobileNet)", "rmse": 0.65},
)
"""What github.com/jamesmf/mnistCRNN states for sums of 1 to 8 digits, on sequences of its own."""


def write_report(run: RunFolder, digits: Digits) -> Report:
    """Score the retrained networks on the test images and write every file of the report.

    Can be repeated alone, and then gives the same `report.json`, whose content it returns.

    digits: MNIST's 60,000 training images followed by its test images.

    Raises:
        InputError: a result file is missing or was altered, or the run has not been retrained.
        ModelFileError: a retrained network's file is missing or altered.
        RunError: the retrained networks are not those of `best.json`, or one of them diverged.
        StorageError: the run's folder cannot be written.
    """
    stages.check(run, stages.FINALISTS, stages.RETRAIN)
    history = read_history(run.journal, run.ledger)
    report = assemble(run, history, digits)
    write_json(run.report_json, report)
    _plot(run, history.ended().trials, report)
    markdown = render(report)
    write_text(run.report_markdown, markdown)
    write_text(run.report_html, to_html(markdown, run))
    plots = (run.plots / LEARNING_CURVES, run.plots / RMSE_BY_LENGTH)
    files = (run.report_json, run.report_markdown, run.report_html, *plots)
    stages.record(run, stages.REPORT, files)
    return report


def assemble(run: RunFolder, history: History, digits: Digits) -> Report:
    """All that the report states, ready for JSON. Raises as `write_report` does."""
    search = history.ended()
    manifest, best, retrained = map(read_json, (run.manifest, run.best, run.retrained))
    space = manifest["space"]
    config = TrialConfig.from_dict(best["config"])
    winner = _load(run, retrained["winner"], config)
    if not winner:
        raise RunError(f"{run.retrained} must list at least one retrained winner, got none")
    baseline = _load(run, retrained["mnist_crnn_2016"], MNIST_CRNN_2016)
    finalists = read_json(run.finalists)["finalists"]
    importance, note = importances(search.trials)
    return {
        "run": {k: v for k, v in manifest.items() if k not in {"space", "arithmetic"}},
        "space": space,
        "arithmetic": manifest["arithmetic"],
        "arithmetics": _arithmetics(search.trials, finalists, retrained),
        **_test_results(winner, baseline, digits, space["task"]["max_digits"]),
        "best_trial": best["number"],
        "best_validation_rmse": best[METRIC],
        "best_config": config.to_dict(),
        "best_parameters": parameter_count(config.model, MNIST_SHAPE),
        "finalists": finalists,
        "trials": ledger.outcomes(search),
        "compute": {
            **_compute(search.trials, finalists, retrained),
            "asha_saved_share": ledger.saved_share(search.trials, space["search"]["max_epochs"]),
        },
        "importance": importance,
        "importance_note": note,
        "retrained": {key: retrained[key] for key in ("epochs", "epoch_sequences")},
        "seconds": {name: history.seconds[name] for name in TIMED if name in history.seconds},
    }


def _load(
    run: RunFolder, entries: Sequence[Mapping[str, Any]], expected: TrialConfig
) -> list[CRNN]:
    """The networks of one configuration, in the order of their entries."""
    models = []
    for entry in entries:
        model, config, _ = checkpoint.load_model(run.root / entry["file"])
        if config != expected:
            raise RunError(
                f"{entry['file']} must have the configuration {expected.to_dict()}, got "
                f"{config.to_dict()}; retrain it"
            )
        models.append(model)
    return models


def _networks(retrained: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The entries of the retrained networks, each once: the winner may be the network of 2016."""
    entries = (*retrained["winner"], *retrained["mnist_crnn_2016"])
    return list({entry["file"]: entry for entry in entries}.values())


def _arithmetics(
    trials: Sequence[TrialRecord],
    finalists: Sequence[Mapping[str, Any]],
    retrained: Mapping[str, Any],
) -> dict[str, list[str]]:
    """The names of the trials that trained in each arithmetic; one that moved may be in two."""
    used = [(record.trial.name, record.arithmetics) for record in trials]
    used += [(f"finalist {row['number']}", row["arithmetics"]) for row in finalists]
    used += [(PurePath(e["file"]).stem, e["arithmetics"]) for e in _networks(retrained)]
    by_arithmetic: dict[str, list[str]] = {}
    for name, arithmetics in used:
        for arithmetic in arithmetics:
            by_arithmetic.setdefault(arithmetic, []).append(name)
    return by_arithmetic


def _test_results(
    winner: Sequence[CRNN], baseline: Sequence[CRNN], digits: Digits, max_digits: int
) -> Report:
    """Scores of the winner, the network of 2016 (may be missing) and the two blind baselines."""
    labels = digits.labels.cpu()
    table = testing_table(labels, max_digits)
    ours, theirs = _predict(winner, digits, table), _predict(baseline, digits, table)
    score = scores.score(ours, table)
    blind = scores.baselines(labels[:TRAINING_IMAGES], table, max_digits)
    return {
        "test": {
            **score.to_dict(),
            "exported_rmse": score.rmse_by_seed[0],
            "images": len(labels) - TRAINING_IMAGES,
        },
        "baselines": {
            "mean_guess": blind.mean_guess.to_dict(),
            "count_only": blind.count_only.to_dict(),
            "mnist_crnn_2016": scores.score(theirs, table).to_dict() if theirs else None,
            "published": list(PUBLISHED),
        },
        "improvement": (
            scores.paired_difference(theirs, ours, table).to_dict() if theirs else None
        ),
    }


def _predict(models: Sequence[CRNN], digits: Digits, table: SequenceTable) -> list[Tensor]:
    device = digits.images.device
    return [predict(model.to(device), digits, table) for model in models]


def _compute(
    trials: Sequence[TrialRecord],
    finalists: Sequence[Mapping[str, Any]],
    retrained: Mapping[str, Any],
) -> Report:
    """Core and GPU seconds by purpose."""
    return {
        key: {
            **ledger.spent(trials, key),
            "finalists": sum(row[key] for row in finalists),
            "retrain": sum(entry[key] for entry in _networks(retrained)),
        }
        for key in ("core_seconds", "gpu_seconds")
    }


def _plot(run: RunFolder, trials: Sequence[TrialRecord], report: Report) -> None:
    from crnn_search.results import plots  # Matplotlib is slow to import

    baselines = report["baselines"]
    plots.learning_curves(
        run.plots / LEARNING_CURVES,
        trials,
        winner=report["best_trial"],
        epochs=report["space"]["search"]["max_epochs"],
        ceiling=2 * baselines["mean_guess"]["rmse"],
    )
    series = {
        "retrained winner": report["test"],
        "network of 2016": baselines["mnist_crnn_2016"],
        "count only": baselines["count_only"],
    }
    known = {name: score for name, score in series.items() if score is not None}
    plots.rmse_by_length(run.plots / RMSE_BY_LENGTH, known)
