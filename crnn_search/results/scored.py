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

from crnn_search.data.sequences import SequenceTable, derive_seed, joined
from crnn_search.data.task import Task
from crnn_search.errors import InputError, RunError
from crnn_search.hyperparameters import ModelSpec, TrialConfig
from crnn_search.kernels.processor import cpu_model
from crnn_search.results import score_figures, scores
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

    (config, baseline_config), networks = _networks(run)
    table, longer = task.testing_table(), task.longer_table()
    whole = table if longer is None else joined([table, longer])
    running = _predict_running(networks[WINNER][0], task, whole)
    found = _predictions(networks, running, task, whole)
    here = {name: values[:, : len(table)] for name, values in found.items()}
    _, network = networks
    scores.check_finite([*here[WINNER], *here[network]])
    errors = (here[WINNER][0].double() - table.targets).abs()
    values, running, space = task.image_values(), running[: len(table)], load_space(run.space)
    importance, note = importances(trials, space)
    rule = space.task.longer or "drop"
    facts = {
        "task": task.info.to_dict(),
        **score_figures.scores_of(here, WINNER, network, task, table),
        "data": None if task.info.sums else score_figures.data(task, table, config, rule),
        "longer": longer and score_figures.longer(found, longer, len(table)),
        "steps": None if values is None else score_figures.steps(running, table, values),
        "ms_per_sequence": _times(trials, task),
        "timed_on": cpu_model(),
        "importance": importance,
        "importance_note": note,
        "baseline_config": baseline_config.to_dict(),
    }
    worst = errors.argsort(descending=True, stable=True)[:SHOWN]
    shown = [_shown(rows, running, task, table) for rows in (worst, _some(len(table)))]
    return Scored(table, here, shown[0], shown[1], facts)


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


def _networks(
    run: RunFolder,
) -> tuple[tuple[TrialConfig, TrialConfig], dict[str, list[CRNN]]]:
    """The configurations of winner and baseline; and their networks by name, in this order."""
    best, retrained = map(read_json, (run.best, run.retrained))
    winners, config = _load(run, retrained["winner"], TrialConfig.from_dict(best["config"]))
    baselines, other = _load(run, retrained["baseline"])
    return (config, other), {WINNER: winners, retrained["baseline_name"]: baselines}


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


def _predictions(
    networks: Mapping[str, list[CRNN]], running: Tensor, task: Task, table: SequenceTable
) -> dict[str, Tensor]:
    """What networks and baselines predict for a table, by name, `(K, S)`.

    running: what the first network predicts after each image.
    """
    first = networks[WINNER][0]
    found = {
        name: [
            _last(running if one is first else _predict_running(one, task, table), table)
            for one in models
        ]
        for name, models in networks.items()
    }
    found |= _without_images(task, table)
    return {name: torch.stack(values) for name, values in found.items()}


def _predict_running(model: CRNN, task: Task, table: SequenceTable) -> Tensor:
    return predict_running(model.to(task.images.device), task.images, table)


def _last(running: Tensor, table: SequenceTable) -> Tensor:
    """The predictions for whole sequences, `(S,)`."""
    return running.gather(1, table.lengths[:, None] - 1)[:, 0]


def _without_images(task: Task, table: SequenceTable) -> dict[str, list[Tensor]]:
    """What baselines predict that use no image, by name."""
    known = task.known_table()
    if task.info.sums:
        found = scores.digit_baselines(known.targets, table, task.info.longest)
    else:
        found = scores.baselines(known, table)
    return {name: [values.float()] for name, values in found.items()}


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
