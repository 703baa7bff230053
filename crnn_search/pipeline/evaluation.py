"""A model on labelled sequences: scored as the report scores the test sequences of a run.

Shapes: `S` sequences, `T` time steps, `C` channels, `H` rows, `W` columns.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from crnn_search.data.images import Progress
from crnn_search.data.running_sheet import Row, running_sheet
from crnn_search.data.sequence_files import Place
from crnn_search.data.sequences import SequenceTable
from crnn_search.models.input_warnings import InputWarning
from crnn_search.models.model import Model
from crnn_search.models.sequence_images import predict_all
from crnn_search.pipeline.evaluation_data import Labelled, Options, name_of, open_labelled
from crnn_search.results import scores
from crnn_search.text import printable

WORST = 24
"""Sequences with the largest errors that are listed, and drawn."""

LETTERS = 12
"""Of a sequence's name that are drawn."""


@dataclass(frozen=True)
class Evaluation:
    """figures: ready for JSON. table: one row a sequence, as CSV. picture: a PNG of the worst."""

    figures: dict[str, Any]
    table: str
    picture: bytes | None


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
    with open_labelled(model, data, options, progress) as labelled:
        predicted = _predict(labelled, progress)
        figures = {"data": name_of(data), **_figures(model, labelled, predicted)}
        picture = _picture(labelled, predicted.values) if options.picture else None
    return Evaluation(figures, _as_csv(labelled, predicted.values), picture)


class _Predicted(NamedTuple):
    """Predictions for all sequences, `(S,)`; what is odd about images, how many were resized."""

    values: NDArray[np.float32]
    warnings: list[InputWarning]
    resized: int


def _predict(labelled: Labelled, progress: Progress) -> _Predicted:
    """The predictions for all sequences."""
    count = len(labelled.table)
    values, warnings, resized, done = np.empty(count, np.float32), list[InputWarning](), 0, 0
    for rows, found in predict_all(labelled.images):
        values[rows] = [one.prediction.value for one in found]
        warnings += [warning for one in found for warning in one.prediction.warnings]
        resized += sum(one.resized for one in found)
        done += len(rows)
        progress("predicting", done, count)
    return _Predicted(values, warnings, resized)


def _figures(model: Model, labelled: Labelled, predicted: _Predicted) -> dict[str, Any]:
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


def _picture(labelled: Labelled, predictions: NDArray[np.float32]) -> bytes:
    """The worst sequences: some images of each, with the prediction after them."""
    rows = []
    for row in _worst(labelled.table, predictions):
        (one,) = labelled.images.predict(np.array([row]))
        caption = f"true {labelled.table.targets[row].item():.4g}\n{_short(labelled.names[row])}"
        rows.append(Row(one.pixels, one.prediction.running, caption))
    return running_sheet(rows, ["PNG"])


def _short(name: str) -> str:
    """A name in one line with room beside a picture."""
    name = printable(" ".join(name.split()))
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"


def _as_csv(labelled: Labelled, predictions: NDArray[np.float32]) -> str:
    """One row a sequence, in the order of the data."""
    table, text = labelled.table, io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["sequence", "images", "target", "prediction", "error"])
    columns = (labelled.names, table.lengths.tolist(), table.targets.tolist(), predictions.tolist())
    for name, length, target, prediction in zip(*columns, strict=True):
        writer.writerow([name, length, target, prediction, prediction - target])
    return text.getvalue()
