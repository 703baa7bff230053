"""A run's result files become `report.json`, and that becomes Markdown, HTML and plots.

`write_report` is the only place that opens the test images, after every choice has been made.
`assemble` computes all figures; `markdown` only puts `report.json` into words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crnn_search.data.digits import TRAINING_IMAGES
from crnn_search.data.sequences import SequenceTable
from crnn_search.data.task import Task
from crnn_search.errors import RunError
from crnn_search.hyperparameters import TrialConfig
from crnn_search.results import scores
from crnn_search.results.html import to_html
from crnn_search.results.importance import importances
from crnn_search.results.markdown import render
from crnn_search.results.words import (
    LEARNING_CURVES,
    LENGTH_ONLY,
    PREDICTED,
    RMSE_BY_LENGTH,
    Report,
    heading,
    length_only,
    lengths_vary,
    network,
)
from crnn_search.storage import ledger, stages
from crnn_search.storage.files import read_json, write_json, write_text
from crnn_search.storage.journal import SEARCH, History, read_history
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import METRIC, TrialRecord
from crnn_search.training import checkpoint
from crnn_search.training.model import CRNN
from crnn_search.training.predict import predict

TIMED = ("start", SEARCH, "finalists", "retrain")
"""The stages whose durations are shown."""

PUBLISHED = (
    {"name": "mnistCRNN README, 2016", "rmse": 1.17},
    {"name": "mnistCRNN README, 2018 (ImageNet MobileNet)", "rmse": 0.65},
)
"""What github.com/jamesmf/mnistCRNN states for sums of 1 to 8 digits, on sequences of its own."""


def write_report(run: RunFolder, task: Task) -> Report:
    """Score the retrained networks on the test sequences and write every file of the report.

    Can be repeated alone, and then gives the same `report.json`, whose content it returns.

    task: with its test images.

    Raises:
        InputError: a result file is missing or was altered, or the run has not been retrained.
        ModelFileError: a retrained network's file is missing or altered.
        RunError: the retrained networks are not those of `best.json`, or one of them diverged.
        StorageError: the run's folder cannot be written.
    """
    stages.check(run, stages.FINALISTS, stages.RETRAIN)
    history = read_history(run.journal, run.ledger)
    table = task.testing_table()
    report, exported = assemble(run, history, task, table)
    write_json(run.report_json, report)
    plots = _plot(run, history.ended().trials, report, table.targets, exported)
    markdown = render(report)
    write_text(run.report_markdown, markdown)
    write_text(run.report_html, to_html(markdown, run))
    files = (run.report_json, run.report_markdown, run.report_html, *plots)
    stages.record(run, stages.REPORT, files)
    return report


def assemble(
    run: RunFolder, history: History, task: Task, table: SequenceTable
) -> tuple[Report, Tensor]:
    """All that the report states, ready for JSON, and the predictions of the exported model.

    table: the test sequences, `S` of them; the predictions are `(S,)`. Raises as `write_report`.
    """
    search, info = history.ended(), task.info
    manifest, best, retrained = map(read_json, (run.manifest, run.best, run.retrained))
    space = manifest["space"]
    config = TrialConfig.from_dict(best["config"])
    winner, _ = _load(run, retrained["winner"], config)
    baseline, baseline_config = _load(run, retrained["baseline"])
    ours, theirs = _predict(winner, task, table), _predict(baseline, task, table)
    finalists = read_json(run.finalists)["finalists"]
    importance, note = importances(search.trials)
    limit = config.training.max_sequence_length
    report = {
        "run": {k: v for k, v in manifest.items() if k not in {"space", "arithmetic"}},
        "space": space,
        "task": info.to_dict(),
        "data": None if info.sums else _data(task, table, space["task"], limit),
        "arithmetic": manifest["arithmetic"],
        "arithmetics": _arithmetics(search.trials, finalists, retrained),
        "test": _test(ours, task, table),
        "baselines": _baselines(retrained["baseline_name"], theirs, task, table),
        "baseline_name": retrained["baseline_name"],
        "baseline_config": baseline_config.to_dict(),
        "improvement": scores.paired_difference(theirs, ours, table).to_dict(),
        "best_trial": best["number"],
        "best_validation_rmse": best[METRIC],
        "best_config": config.to_dict(),
        "best_parameters": config.model.parameter_count(info.shape),
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
    return report, ours[0]


def _load(
    run: RunFolder, entries: Sequence[Mapping[str, Any]], expected: TrialConfig | None = None
) -> tuple[list[CRNN], TrialConfig]:
    """The networks of one configuration, in the order of their entries, and the configuration."""
    models = []
    for entry in entries:
        model, config, _ = checkpoint.load_model(run.root / entry["file"])
        expected = expected or config
        if config != expected:
            raise RunError(
                f"{entry['file']} must have the configuration {expected.to_dict()}, got "
                f"{config.to_dict()}; retrain it"
            )
        models.append(model)
    if not models or expected is None:
        raise RunError(f"{run.retrained} must list at least one network of each kind, got none")
    return models, expected


def _networks(retrained: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The entries of the retrained networks, each once: the winner may be the baseline."""
    entries = (*retrained["winner"], *retrained["baseline"])
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


def _data(task: Task, table: SequenceTable, spec: Mapping[str, Any], limit: int) -> Report:
    """What is in a data set of the user's own. limit: the winner's `max_sequence_length`."""
    known = task.known_table()
    return {
        "facts": [[name, value] for name, value in task.facts if name != "warning"],
        "warnings": [value for name, value in task.facts if name == "warning"],
        "targets": {
            "training and validation": _distribution(known.targets),
            "test": _distribution(table.targets),
        },
        "longer": spec.get("longer", "drop"),
        "longer_sequences": int((known.lengths > limit).sum()),
    }


def _distribution(targets: Tensor) -> Report:
    values = targets.double().numpy()
    low, first, median, third, high = np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).tolist()
    return {
        "sequences": len(values), "mean": float(values.mean()), "std": float(values.std()),
        "min": low, "q25": first, "median": median, "q75": third, "max": high,
    }  # fmt: skip


def _test(predictions: Sequence[Tensor], task: Task, table: SequenceTable) -> Report:
    """The winner's score, and what it was scored on."""
    score = scores.score(predictions, table, sums=task.info.sums)
    steps = torch.arange(table.indices.shape[1])
    used = table.indices[steps < table.lengths[:, None]].unique()
    return {
        **score.to_dict(),
        "exported_rmse": score.rmse_by_seed[0],
        "images": len(task.images) - TRAINING_IMAGES if task.info.sums else len(used),
        "groups": None if table.groups is None else len(table.groups.unique()),
    }


def _baselines(
    name: str, predictions: Sequence[Tensor], task: Task, table: SequenceTable
) -> Report:
    """The scores of the baselines by name, that of the network `name` among them."""
    known, sums = task.known_table(), task.info.sums
    if sums:
        blind = scores.digit_baselines(known.targets, table, task.info.longest)
    else:
        blind = scores.baselines(known, table)
    found: Report = {key: score.to_dict() for key, score in blind.items()}
    found[name] = scores.score(predictions, table, sums=sums).to_dict()
    return found | ({"published": list(PUBLISHED)} if sums else {})


def _predict(models: Sequence[CRNN], task: Task, table: SequenceTable) -> list[Tensor]:
    device = task.images.device
    return [predict(model.to(device), task.images, table) for model in models]


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


def _plot(
    run: RunFolder,
    trials: Sequence[TrialRecord],
    report: Report,
    targets: Tensor,
    predictions: Tensor,
) -> list[Path]:
    """Draw what the report shows; returns the files. targets, predictions: of the test, `(S,)`."""
    from crnn_search.results import plots  # Matplotlib is slow to import

    baselines, sums = report["baselines"], report["task"]["sums"]
    files = [run.plots / LEARNING_CURVES, run.plots / PREDICTED]
    plots.learning_curves(
        files[0],
        trials,
        winner=report["best_trial"],
        epochs=report["space"]["search"]["max_epochs"],
        ceiling=2 * (baselines["mean_guess"]["rmse"] or report["task"]["scale"]),
        rmse=heading(report, "validation RMSE"),
    )
    target = heading(report, report["task"]["target"])
    plots.predicted(files[1], targets.double().numpy(), predictions.double().numpy(), target)
    if lengths_vary(report):
        series = {
            "retrained winner": report["test"],
            network(report): baselines[report["baseline_name"]],
        }
        if key := length_only(report):
            series[LENGTH_ONLY[key]] = baselines[key]
        files.append(run.plots / RMSE_BY_LENGTH)
        steps = "digits" if sums else "images"
        plots.rmse_by_length(files[2], series, steps, heading(report, "test RMSE"))
    return files
