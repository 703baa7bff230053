"""What the retrained networks and the baselines predicted for the test sequences, and its file.

`score` is the only place that opens the test images, after every choice has been made. All that the
report shows of them is in `test_predictions.npz`: the report can be rendered again without them.

Shapes: `K` seeds, `S` test sequences, `T` time steps, `R` sequences that are shown as pictures,
`N` images of these, `C` channels, `H` rows, `W` columns.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from crnn_search.data.digits import TRAINING_IMAGES
from crnn_search.data.sequences import SequenceTable, derive_seed, joined
from crnn_search.data.task import Task
from crnn_search.errors import InputError, RunError
from crnn_search.hyperparameters import ModelSpec, TrialConfig
from crnn_search.kernels.processor import cpu_model
from crnn_search.results import scores
from crnn_search.results.schema import StepError, Steps
from crnn_search.spaces.file import load_space
from crnn_search.storage.checks import ALTERED
from crnn_search.storage.files import atomic_write, read_json, writing
from crnn_search.storage.ledger import ranked
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import TrialRecord, TrialState
from crnn_search.text import first_line
from crnn_search.training import checkpoint
from crnn_search.training.model import CRNN
from crnn_search.training.predict import predict_running
from crnn_search.training.prediction_time import ms_per_sequence

SHOWN = 24
"""Of the worst sequences, and of random ones, so many are shown as pictures."""

MAX_IMAGES = 16
"""Of a sequence that is shown, so many images: of a longer one some, evenly spaced."""

MAX_SIDE = 48
"""Rows and columns of an image that is shown, at most: of a larger one some are left out."""

TIMED = 16
"""How many of the best full-budget trials' networks are timed."""

WINNER = "winner"
"""The name of the winner's predictions."""


@dataclass(frozen=True)
class Shown:
    """Test sequences as pictures, worst or random.

    rows: of the test table, int64 `(R,)`. steps: which images of each are shown, int64 `(N,)`, one
    sequence after the other; counts: how many of each, int64 `(R,)`. running: the exported model's
    prediction after each of them, float32 `(N,)`. pixels: uint8 `(N, C, H, W)`.
    """

    rows: Tensor
    counts: Tensor
    steps: Tensor
    running: Tensor
    pixels: Tensor


@dataclass(frozen=True)
class Scored:
    """Predictions on the test sequences.

    predictions: by name, `winner` and those of the baselines, float32 `(K, S)`. worst, random:
    sequences as pictures. facts: what else needs the data or time to know, ready for JSON.
    """

    table: SequenceTable
    predictions: dict[str, Tensor]
    worst: Shown
    random: Shown
    facts: dict[str, Any]


def score(run: RunFolder, task: Task, trials: Sequence[TrialRecord]) -> Scored:
    """Predict the test sequences with a run's retrained networks. task: with its test images.

    trials: of the search that have ended; the networks of the best ones are timed.

    Raises:
        InputError: `best.json` or `retrained.json` cannot be read.
        ModelFileError: a retrained network's file is missing or altered.
        RunError: the retrained networks are not those of `best.json`, or one of them diverged.
    """
    from crnn_search.results.importance import importances  # Optuna is slow to import

    best, retrained = map(read_json, (run.best, run.retrained))
    config = TrialConfig.from_dict(best["config"])
    winners, _ = _load(run, retrained["winner"], config)
    baselines, baseline_config = _load(run, retrained["baseline"])
    table, longer, name = task.testing_table(), task.longer_table(), retrained["baseline_name"]
    whole = table if longer is None else joined([table, longer])
    running = _predict_running(winners[0], task, whole)
    predicted = {
        WINNER: [_last(running, whole), *(_predict(model, task, whole) for model in winners[1:])],
        name: [_predict(model, task, whole) for model in baselines],
        **_without_images(task, whole),
    }
    found = {name: torch.stack(values) for name, values in predicted.items()}
    here = {name: values[:, : len(table)] for name, values in found.items()}
    errors = (here[WINNER][0].double() - table.targets).abs()
    scores.check_finite([*here[WINNER], *here[name]])
    values, running = task.image_values(), running[: len(table)]
    importance, note = importances(trials, load_space(run.space))
    return Scored(
        table,
        here,
        _shown(errors.argsort(descending=True, stable=True)[:SHOWN], running, task, table),
        _shown(_some(len(table)), running, task, table),
        {
            "task": task.info.to_dict(),
            "images": _image_count(task, table),
            "data": None if task.info.sums else _data(run, task, table, config),
            "longer": longer and _longer(found, longer, len(table)),
            "steps": None if values is None else step_errors(running, table, values),
            "ms_per_sequence": _times(trials, task),
            "timed_on": cpu_model(),
            "importance": importance,
            "importance_note": note,
            "baseline_config": baseline_config.to_dict(),
        },
    )


def step_errors(running: Tensor, table: SequenceTable, values: Tensor) -> Steps:
    """Errors of the steps of running predictions, by position and by the image's value.

    A step is the prediction after an image less that before it, or less 0 before the first one. Its
    error is the step less what the image adds to the target.

    running: float `(S, T)`. values: what each image adds, `(I,)`.
    """
    steps = torch.arange(table.indices.shape[1])
    real = steps < table.lengths[:, None]
    running = running[:, : len(steps)].double()
    truth = values[table.indices.long()].double()
    errors = (running - F.pad(running[:, :-1], (1, 0)) - truth)[real].numpy()
    position = (steps + 1).expand_as(real)[real].numpy()
    value = truth[real].long().numpy()
    return {"by_position": _errors_by(position, errors), "by_digit": _errors_by(value, errors)}


def write(scored: Scored, run: RunFolder) -> None:
    """Write the file of a run.

    Raises:
        StorageError: it cannot be written.
    """
    table = scored.table
    arrays = {"indices": table.indices, "lengths": table.lengths, "targets": table.targets}
    if table.groups is not None:
        arrays["groups"] = table.groups
    arrays |= {f"predictions/{name}": found for name, found in scored.predictions.items()}
    for kind in ("worst", "random"):
        arrays |= {f"{kind}/{name}": v for name, v in vars(getattr(scored, kind)).items()}
    path = run.test_predictions
    with writing(path), atomic_write(path) as temporary, temporary.open("wb") as file:
        plain = {name: value.numpy() for name, value in arrays.items()}
        np.savez_compressed(file, allow_pickle=False, facts=json.dumps(scored.facts), **plain)


def read(run: RunFolder) -> Scored:
    """What `write` wrote.

    Raises:
        InputError: the file cannot be read.
    """
    path = run.test_predictions
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: torch.from_numpy(stored[name]) for name in stored if name != "facts"}
            facts = json.loads(str(stored["facts"]))
        table = SequenceTable(
            arrays["indices"], arrays["lengths"], arrays["targets"], arrays.get("groups")
        )
        start = "predictions/"
        predictions = {k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}
        worst, random = (
            Shown(**{k.partition("/")[2]: v for k, v in arrays.items() if k.startswith(f"{kind}/")})
            for kind in ("worst", "random")
        )
    except (*ALTERED, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"cannot read {run.location_of(path)}: {first_line(error)}; let crnn-search report "
            "--rescore write it again"
        ) from error
    return Scored(table, predictions, worst, random, facts)


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


def _predict_running(model: CRNN, task: Task, table: SequenceTable) -> Tensor:
    return predict_running(model.to(task.images.device), task.images, table)


def _last(running: Tensor, table: SequenceTable) -> Tensor:
    """The predictions for whole sequences, `(S,)`."""
    return running.gather(1, table.lengths[:, None] - 1)[:, 0]


def _predict(model: CRNN, task: Task, table: SequenceTable) -> Tensor:
    return _last(_predict_running(model, task, table), table)


def _without_images(task: Task, table: SequenceTable) -> dict[str, list[Tensor]]:
    """What baselines predict that use no image, by name."""
    known = task.known_table()
    if task.info.sums:
        found = scores.digit_baselines(known.targets, table, task.info.longest)
    else:
        found = scores.baselines(known, table)
    return {name: [values.float()] for name, values in found.items()}


def _longer(found: Mapping[str, Tensor], longer: SequenceTable, start: int) -> dict[str, Any]:
    """The scores of longer sequences, by name. start: where they start in `found`."""
    return {
        name: scores.score(list(values[:, start:]), longer, sums=True).to_dict()
        for name, values in found.items()
        if name != "mean_guess"  # the mean of other lengths
    }


def _some(sequences: int) -> Tensor:
    """Random rows, the same for every run on the same test sequences, in order."""
    generator = torch.Generator().manual_seed(derive_seed("report", "random"))
    return torch.randperm(sequences, generator=generator)[:SHOWN].sort().values


def _shown(rows: Tensor, running: Tensor, task: Task, table: SequenceTable) -> Shown:
    """Sequences as pictures: not more of their images and pixels than can be seen."""
    lengths = table.lengths[rows].tolist()
    steps = [np.linspace(0, n - 1, min(n, MAX_IMAGES)).round().astype(int) for n in lengths]
    of_row = [(row, step) for row, some in zip(rows.tolist(), steps, strict=True) for step in some]
    at = tuple(torch.tensor(of_row).T)
    images = table.indices[at].long().to(task.images.device)
    shape = task.info.shape
    every = math.ceil(max(shape.rows, shape.columns) / MAX_SIDE)
    return Shown(
        rows,
        torch.tensor([len(some) for some in steps]),
        at[1],
        running[at],
        task.images[images][..., ::every, ::every].cpu().contiguous(),
    )


def _image_count(task: Task, table: SequenceTable) -> int:
    """How many images the test sequences are drawn from, or have."""
    if task.info.sums:
        return len(task.images) - TRAINING_IMAGES
    steps = torch.arange(table.indices.shape[1])
    return len(table.indices[steps < table.lengths[:, None]].unique())


def _data(run: RunFolder, task: Task, table: SequenceTable, config: TrialConfig) -> dict[str, Any]:
    """What is in a data set of the user's own."""
    known, limit = task.known_table(), config.training.max_sequence_length
    return {
        "facts": [[name, value] for name, value in task.facts if name != "warning"],
        "warnings": [value for name, value in task.facts if name == "warning"],
        "targets": {
            "training and validation": _distribution(known.targets),
            "test": _distribution(table.targets),
        },
        "longer": read_json(run.manifest)["space"]["task"].get("longer", "drop"),
        "longer_sequences": int((known.lengths > limit).sum()),
    }


def _distribution(targets: Tensor) -> dict[str, Any]:
    values = targets.double().numpy()
    low, first, median, third, high = np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).tolist()
    return {
        "sequences": len(values), "mean": float(values.mean()), "std": float(values.std()),
        "min": low, "q25": first, "median": median, "q75": third, "max": high,
    }  # fmt: skip


def _errors_by(kinds: np.ndarray[Any, Any], errors: np.ndarray[Any, Any]) -> dict[str, StepError]:
    """Errors by kind, a whole number."""
    found = {}
    for kind in np.unique(kinds).tolist():
        some = errors[kinds == kind]
        rmse = math.sqrt(float(np.square(some).mean()))
        found[str(kind)] = StepError(steps=len(some), mean=float(some.mean()), rmse=rmse)
    return found


def _times(trials: Sequence[TrialRecord], task: Task) -> dict[str, float]:
    """Milliseconds to predict a sequence by the number of a trial, of the best ones' networks."""
    full = [record for record in ranked(trials) if record.state == TrialState.COMPLETE]
    measured: dict[ModelSpec, float] = {}
    found = {}
    for record in full[:TIMED]:
        spec = record.trial.config.model
        if spec not in measured:
            measured[spec] = ms_per_sequence(spec, task.info.shape, task.info.longest, math.inf)
        found[str(record.trial.number)] = measured[spec]
    return found
