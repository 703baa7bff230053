"""A run's result files become `report.json`, and that becomes Markdown, HTML and plots.

`write_report` is the only place that opens the test images, after every choice has been made.
`assemble` makes all numbers; `render` and `summary` only put `report.json`'s content into words.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from crnn_search.data.sequences import TRAINING_IMAGES, Digits, SequenceTable, testing_table
from crnn_search.errors import RunError
from crnn_search.hyperparameters import MNIST_CRNN_2016, TrialConfig
from crnn_search.results import scores
from crnn_search.results.html import _html
from crnn_search.results.importance import importances
from crnn_search.results.markdown import LEARNING_CURVES, RMSE_BY_LENGTH, Report, render, unprefixed
from crnn_search.results.scores import Score
from crnn_search.storage import jsonl, ledger
from crnn_search.storage.files import read_json, write_atomically, write_json
from crnn_search.storage.jsonl import Record
from crnn_search.storage.run_folder import RunPaths
from crnn_search.training import checkpoint, predict
from crnn_search.training.footprint import parameter_count
from crnn_search.training.model import CRNN

if TYPE_CHECKING:
    pass

PUBLISHED = (
    {"name": "mnistCRNN README, 2016", "rmse": 1.17},
    {"name": "mnistCRNN README, 2018 (ImageNet MobileNet)", "rmse": 0.65},
)
"""What github.com/jamesmf/mnistCRNN states for sums of 1 to 8 digits, on sequences of its own."""


def write_report(run: RunPaths, digits_with_test: Digits) -> Report:
    """Score the retrained networks on the test images and write every file of the report.

    Can be run again alone, and then gives the same `report.json`, whose content it returns.

    digits_with_test: MNIST's 60,000 training images followed by its test images.

    Raises:
        InputError: a result file is missing or no JSON.
        ModelFileError: a retrained network's file is missing or altered.
        RunError: the retrained networks are not those of `best.json`, or one of them diverged.
    """
    trials = sorted(jsonl.read(run.ledger), key=lambda record: record["number"])
    report = assemble(run, trials, digits_with_test)
    write_json(run.report_json, report)
    _draw(run, trials, report)
    markdown = render(report)
    write_atomically(run.report_markdown, markdown)
    write_atomically(run.report_html, _html(markdown, run))
    return report


def assemble(run: RunPaths, trials: Sequence[Record], digits: Digits) -> Report:
    """All that the report states, ready for JSON. Raises as `write_report` does."""
    manifest, best, retrained = map(read_json, (run.manifest, run.best, run.retrained))
    space = manifest["space"]
    config = TrialConfig.from_dict(best["config"])
    winner = _load(run, retrained["winner"], config)
    if not winner:
        raise RunError(f"{run.retrained} must list at least one retrained winner, got none")
    other = _load(run, retrained["mnist_crnn_2016"], MNIST_CRNN_2016)
    finalists = read_json(run.finalists)["finalists"] if run.finalists.is_file() else None
    importance, note = importances(trials)
    return {
        "run": {key: value for key, value in manifest.items() if key != "space"},
        "space": space,
        **_test_results(winner, other, digits, space["task"]["max_digits"]),
        "best_trial": best["number"],
        "best_validation_rmse": best["rmse"],
        "best_config": config.to_dict(),
        "best_parameters": parameter_count(config.model),
        "finalists": finalists,
        "trials": ledger.outcomes(trials),
        "compute": _compute(trials, finalists, retrained, space["search"]["max_epochs"]),
        "importance": importance,
        "importance_note": note,
        "retrained": {key: retrained[key] for key in ("epochs", "epoch_sequences")},
        "seconds": retrained.get("seconds"),
    }


def _load(run: RunPaths, entries: Sequence[Mapping[str, Any]], expected: TrialConfig) -> list[CRNN]:
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


def _test_results(
    winner: Sequence[CRNN], other: Sequence[CRNN], digits: Digits, max_digits: int
) -> Report:
    """Scores of the winner, the network of 2016 (may be missing) and the two blind baselines."""
    labels = digits.labels.cpu()
    table = testing_table(labels, max_digits)
    ours, theirs = _predict(winner, digits, table), _predict(other, digits, table)
    score = scores.score(ours, table)
    blind = scores.baselines(labels[:TRAINING_IMAGES], table, max_digits)
    return {
        "test": {
            **score.to_dict(),
            "exported_rmse": score.rmse_by_seed[0],
            "images": len(labels) - TRAINING_IMAGES,
        },
        "baselines": {
            **_prefixed("mean_guess", blind.mean_guess),
            **_prefixed("count_only", blind.count_only),
            **_prefixed("mnist_crnn_2016", scores.score(theirs, table) if theirs else None),
            "published": list(PUBLISHED),
        },
        "improvement": (
            scores.paired_difference(theirs, ours, table).to_dict() if theirs else None
        ),
    }


def _predict(models: Sequence[CRNN], digits: Digits, table: SequenceTable) -> list[Tensor]:
    device = digits.images.device
    return [predict.predict(model.to(device), digits, table) for model in models]


def _prefixed(name: str, score: Score | None) -> Report:
    """A score's figures under `name_...`, all None if there is no score."""
    figures = score.to_dict() if score else {f.name: None for f in dataclasses.fields(Score)}
    return {f"{name}_{key}": value for key, value in figures.items()}


def _compute(
    trials: Sequence[Record],
    finalists: Sequence[Mapping[str, Any]] | None,
    retrained: Mapping[str, Any],
    max_epochs: int,
) -> Report:
    """Core and GPU seconds by what they were spent on; None where no file says."""
    # By file, since a winner that is the network of 2016 stands twice but was trained once.
    networks = {e["file"]: e for e in (*retrained["winner"], *retrained["mnist_crnn_2016"])}
    spent = {
        key: {
            **ledger.spent(trials, key),
            "finalists": None if finalists is None else sum(row[key] for row in finalists),
            "retrain": sum(entry[key] for entry in networks.values()),
        }
        for key in ("core_seconds", "gpu_seconds")
    }
    return {**spent, "asha_saved_share": ledger.saved_share(trials, max_epochs)}


def _draw(run: RunPaths, trials: Sequence[Record], report: Report) -> None:
    from crnn_search.results import plots

    base = report["baselines"]
    plots.learning_curves(
        run.plots / LEARNING_CURVES,
        trials,
        winner=report["best_trial"],
        epochs=report["space"]["search"]["max_epochs"],
        ceiling=2 * base["mean_guess_rmse"],
    )
    series = {
        "retrained winner": report["test"],
        "network of 2016": unprefixed("mnist_crnn_2016", base),
        "count only": unprefixed("count_only", base),
    }
    known = {name: score for name, score in series.items() if score["rmse"] is not None}
    plots.rmse_by_length(run.plots / RMSE_BY_LENGTH, known)
