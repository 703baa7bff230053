"""Predictions for many sequences of a data set, in parts that fit into memory.

Shapes: `T` time steps, `C` channels, `H` rows, `W` columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crnn_search.data.sequence_files import Sequences, batches
from crnn_search.models.model import Model, Prediction, pixels_of
from crnn_search.models.predictor import at_once


class Predicted(NamedTuple):
    """A sequence's row in the data set, its images, uint8 `(T, C, H, W)`, and its prediction.

    resized: how many of its images had another size than the model takes whole.
    """

    row: int
    pixels: NDArray[np.uint8]
    prediction: Prediction
    resized: int


def predict_sequences(model: Model, found: Sequences) -> Iterator[Predicted]:
    """The prediction for each sequence, the longest one first.

    Raises:
        ImageError: a file is missing or cannot be decoded.
    """
    for rows in batches(found.found.lengths, partial(at_once, model.predictor.shape)):
        if found.files is None:
            parts = _arrays(model, found, rows)
        else:
            parts = [_files(model, found, int(row)) for row in rows]
        running = model.predict_pixels([part.pixels for part in parts])
        for part, values in zip(parts, running, strict=True):
            warnings = part.prediction.warnings
            yield part._replace(prediction=Prediction(values[-1], values, warnings))


def _arrays(model: Model, found: Sequences, rows: NDArray[np.int64]) -> list[Predicted]:
    """Sequences in arrays, not yet predicted."""
    assert found.arrays is not None
    images = found.pixels(rows, model.task.shape)
    other = found.arrays.shape[3:] != model.task.shape[1:]
    parts = []
    for row, pixels, length in zip(rows, images, found.found.lengths[rows], strict=True):
        own = pixels[:length]
        unknown = Prediction(np.nan, [], model.check(own))
        parts.append(Predicted(int(row), own, unknown, int(length) if other else 0))
    return parts


def _files(model: Model, found: Sequences, row: int) -> Predicted:
    """A sequence of files, not yet predicted."""
    assert found.files is not None
    prepared = model.prepare(found.files[row])
    whole = model.preprocessing.placement is None
    resized = sum(whole and image.size != model.task.shape[1:] for image in prepared)
    unknown = Prediction(np.nan, [], model.warnings(prepared))
    return Predicted(row, pixels_of(prepared), unknown, resized)
