"""A model on labelled sequences: scored as the report scores the test sequences of a run.

Shapes: `S` sequences, `T` time steps, `C` channels, `H` rows, `W` columns.
"""

from __future__ import annotations

import contextlib
import csv
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crnn_search.data import mnist, running_sheet
from crnn_search.data.digits import MEAN_DIGIT, TRAINING_IMAGES
from crnn_search.data.folder import METADATA
from crnn_search.data.images import Progress
from crnn_search.data.mnist_sums import MnistSource
from crnn_search.data.sequence_files import Place, Sequences, batches, open_sequences
from crnn_search.data.sequences import SequenceTable
from crnn_search.errors import InputError
from crnn_search.models.input_warnings import InputWarning
from crnn_search.models.model import Model
from crnn_search.models.predictor import at_once
from crnn_search.pipeline.evaluation_images import ArrayImages, FileImages, Images, Predicted
from crnn_search.pipeline.evaluation_split import Chosen, choose
from crnn_search.results import scores
from crnn_search.storage.location import is_uri, local_path
from crnn_search.text import printable

MNIST = "mnist"
"""The word for MNIST's own files."""

WORST = 24
"""Sequences with the largest errors that are listed, and drawn."""

LETTERS = 12
"""Of a sequence's name that are drawn."""


@dataclass(frozen=True)
class Options:
    """What is evaluated. target: the column. split: `all` or one of the data's splits, None: `test`
    of the model's own data set, else all. data_dir: MNIST's four files, for the data `mnist`.
    picture: draw the worst sequences.
    """

    target: str | None = None
    split: str | None = None
    data_dir: Path | None = None
    picture: bool = False


@dataclass(frozen=True)
class Evaluation:
    """figures: ready for JSON. table: one row a sequence, as CSV. picture: a PNG of the worst."""

    figures: dict[str, Any]
    table: str
    picture: bytes | None


@dataclass(frozen=True)
class _Labelled:
    """Sequences that are scored. table: its indices are used only without groups. names: of the
    sequences. baselines: what is predicted without images, by name, `(S,)`. facts: entries of the
    figures. warnings: what makes them doubtful.
    """

    table: SequenceTable
    names: list[str]
    images: Images
    baselines: dict[str, Tensor]
    facts: dict[str, Any]
    warnings: list[str]


def evaluate(
    model: Model,
    data: Place,
    options: Options,
    progress: Progress = lambda what, done, total: None,
) -> Evaluation:
    """Predict labelled sequences and score the predictions.

    data: a folder with `metadata.csv`, an `.npz` file, their URI, or arrays; for a model of digits
    `mnist` or a folder with MNIST's own files, too.

    Raises:
        InputError: the data or an option are not valid, or no sequence is in the split.
        RunError: the model predicts something that is not a finite number.
    """
    with contextlib.ExitStack() as stack:
        if _is_mnist(data, model):
            labelled = _mnist(model, data, options)
        else:
            found = stack.enter_context(_opened(model, data, options, progress))
            labelled = _own(model, found, choose(found, model.task, options.split, progress))
        predicted = _predict(model, labelled, progress)
        figures = {"data": _name(data), **_figures(model, labelled, predicted)}
        picture = _picture(labelled, predicted.values) if options.picture else None
    return Evaluation(figures, _as_csv(labelled, predicted.values), picture)


def _name(data: Place) -> str:
    return str(data) if isinstance(data, str | Path) else data.name


def _opened(
    model: Model, data: Place, options: Options, progress: Progress
) -> contextlib.AbstractContextManager[Sequences]:
    if options.data_dir is not None:
        raise InputError(
            f"--data-dir is for the data {MNIST!r} of a model of digits, got {options.data_dir} "
            f"with {_name(data)}"
        )
    return open_sequences(data, model.task, target=options.target, progress=progress)


def _is_mnist(data: Place, model: Model) -> bool:
    """Whether data are MNIST's own files, and a model's."""
    if not model.task.sums or not isinstance(data, str | Path) or is_uri(str(data)):
        return False
    folder = local_path(data)
    files = (folder / f"{name}{end}" for name in mnist.FILES for end in ("", ".gz"))
    return str(data) == MNIST or (
        not (folder / METADATA).exists() and any(path.is_file() for path in files)
    )


def _mnist(model: Model, data: Place, options: Options) -> _Labelled:
    """The test sequences that a run's report has."""
    if options.target is not None:
        raise InputError(f"--target names a column of {METADATA}, got {options.target} for MNIST")
    if options.split not in {None, "test"}:
        raise InputError(
            f"--split must be test for MNIST, whose other images were trained on, got "
            f"{options.split}"
        )
    named = None if str(data) == MNIST else local_path(str(data))
    task = MnistSource(model.task.longest, named or options.data_dir).load(test=True)
    table, pixels = task.testing_table(), task.images.numpy()
    indices, lengths = table.indices.numpy(), table.lengths.numpy()

    def images(rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        found: NDArray[np.uint8] = pixels[indices[rows, : lengths[rows].max()]]
        return found

    facts = {
        "target": model.task.target, "split": "test", "own_data": True,
        "sequences": {"found": len(table), "evaluated": len(table), "by_split": None},
        "images": len(pixels) - TRAINING_IMAGES, "groups": None,
    }  # fmt: skip
    return _Labelled(
        table,
        [str(row) for row in range(len(table))],
        ArrayImages(model, images, lengths, checked=False),
        scores.digit_baselines(task.known_table().targets, table, model.task.longest),
        facts,
        [],
    )


def _own(model: Model, found: Sequences, chosen: Chosen) -> _Labelled:
    """Labelled sequences of the user's."""
    rows, task, warnings = chosen.rows, model.task, [*found.notes, *chosen.warnings]
    groups = torch.from_numpy(found.found.group_numbers()[rows].astype(np.int64))
    lengths = torch.from_numpy(found.found.lengths[rows])
    targets = torch.from_numpy(found.found.targets[rows])
    table = SequenceTable(torch.zeros(len(rows), 1, dtype=torch.int32), lengths, targets, groups)
    images: Images
    if found.files is None:
        images = ArrayImages(
            model,
            lambda some: found.pixels(rows[some], task.shape),
            lengths.numpy(),
            resized=found.arrays is not None and found.arrays.shape[3:] != task.shape[1:],
        )
        count = int(lengths.sum())
    else:
        files = [found.files[row] for row in rows]
        images, count = FileImages(model, files), len({path for some in files for path in some})
        if found.found.groups is None and (shared := _shared(files)):
            warnings.append(
                f"{shared:,} image files are in more than one sequence: intervals may be too narrow"
            )
    if task.sums:
        known = torch.tensor([MEAN_DIGIT], dtype=torch.float64)
        baselines = scores.digit_baselines(known, table, task.longest)
    else:
        baselines = {"mean_guess": torch.full((len(rows),), task.center, dtype=torch.float64)}
    facts = {
        **chosen.facts, "target": found.target, "images": count,
        "groups": len(groups.unique()),
    }  # fmt: skip
    names = [found.found.names[row] for row in rows]
    return _Labelled(table, names, images, baselines, facts, warnings)


def _shared(files: list[list[Path]]) -> int:
    """How many files are in more than one sequence."""
    counts = Counter(path for some in files for path in set(some))
    return sum(count > 1 for count in counts.values())


def _predict(model: Model, labelled: _Labelled, progress: Progress) -> Predicted:
    """The predictions for all sequences."""
    lengths = labelled.table.lengths.numpy()
    values, warnings, resized, done = np.empty(len(lengths), np.float32), list[InputWarning](), 0, 0
    for rows in batches(lengths, lambda length: at_once(model.task.shape, length)):
        found = labelled.images.predict(rows)
        values[rows] = found.values
        warnings += found.warnings
        resized += found.resized
        done += len(rows)
        progress("predicting", done, len(lengths))
    return Predicted(values, warnings, resized)


def _figures(model: Model, labelled: _Labelled, predicted: Predicted) -> dict[str, Any]:
    """All figures; scores are `scores.Score.to_dict`."""
    table, sums, (predictions, odd, resized) = labelled.table, model.task.sums, predicted
    guesses = {name: values.float() for name, values in labelled.baselines.items()}
    counts, example = Counter(one.kind for one in odd), {one.kind: one for one in odd}
    return {
        "task": model.task.to_dict(),
        **labelled.facts,
        "score": scores.score([torch.from_numpy(predictions)], table, sums=sums).to_dict(),
        "baselines": {
            name: scores.score([values], table, sums=sums).to_dict()
            for name, values in guesses.items()
        },
        "worst": [
            {
                "name": labelled.names[row], "length": int(table.lengths[row]),
                "target": float(table.targets[row]), "prediction": float(predictions[row]),
            }
            for row in _worst(table, predictions)
        ],
        "resized": resized,
        "warnings": labelled.warnings,
        "input_warnings": {
            kind: {"count": count, "example": example[kind].to_dict()}
            for kind, count in sorted(counts.items())
        },
    }  # fmt: skip


def _worst(table: SequenceTable, predictions: NDArray[np.float32]) -> NDArray[np.int64]:
    """The rows with the largest errors, the largest first."""
    return np.argsort(-np.abs(predictions - table.targets.numpy()), kind="stable")[:WORST]


def _picture(labelled: _Labelled, predictions: NDArray[np.float32]) -> bytes:
    """The worst sequences: some images of each, with the prediction after them."""
    table, rows = labelled.table, _worst(labelled.table, predictions)
    most = running_sheet.COLUMNS
    pixels, running = [], torch.full((len(rows), most), torch.nan)
    indices, counts, start = torch.zeros(len(rows), most, dtype=torch.int32), [], 0
    for place, row in enumerate(rows):
        length = int(table.lengths[row])
        steps = np.linspace(0, length - 1, min(length, most)).round().astype(np.int64)
        some, values = labelled.images.shown(int(row), steps)
        pixels.append(torch.from_numpy(some))
        running[place, : len(steps)] = torch.from_numpy(values)
        indices[place, : len(steps)] = torch.arange(start, start + len(steps))
        counts.append(len(steps))
        start += len(steps)
    shown = SequenceTable(indices, torch.tensor(counts), table.targets[torch.from_numpy(rows)])
    captions = [
        f"true {table.targets[row].item():.4g}\n{_short(labelled.names[row])}" for row in rows
    ]
    return running_sheet.running_sheet(torch.cat(pixels), shown, running, captions, ["PNG"])


def _short(name: str) -> str:
    """A name in one line with room beside a picture."""
    name = printable(" ".join(name.split()))
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"


def _as_csv(labelled: _Labelled, predictions: NDArray[np.float32]) -> str:
    """One row a sequence, in the order of the data."""
    table, text = labelled.table, io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["sequence", "images", "target", "prediction", "error"])
    columns = (labelled.names, table.lengths.tolist(), table.targets.tolist(), predictions.tolist())
    for name, length, target, prediction in zip(*columns, strict=True):
        writer.writerow([name, length, target, prediction, prediction - target])
    return text.getvalue()
