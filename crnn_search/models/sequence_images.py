"""A model's predictions for the sequences of a data set: in image files, or in arrays.

Shapes: `S` sequences, `B` some of them, `T` time steps, `C` channels, `H` rows, `W` columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from crnn_search.data.sequence_files import Sequences
from crnn_search.models.input_warnings import InputWarning
from crnn_search.models.model import Model, Prediction, pixels_of
from crnn_search.models.predictor import batches

Rows = NDArray[np.int64]
Pixels = NDArray[np.uint8]


class Predicted(NamedTuple):
    """A sequence's images as the model takes them, uint8 `(T, C, H, W)`, and its prediction.

    resized: how many of its images had another size than a model takes that takes them whole.
    """

    pixels: Pixels
    prediction: Prediction
    resized: int


class Images(Protocol):
    """The images of `S` sequences, and a model. lengths: of the sequences, `(S,)`."""

    model: Model
    lengths: Rows

    def predict(self, rows: Rows) -> list[Predicted]:
        """The predictions for some sequences.

        Raises:
            ImageError: a file is missing or cannot be decoded.
        """


@dataclass
class ArrayImages:
    """Images in memory.

    pixels: gives those of some sequences, `(B, T, C, H, W)`, where `T` is the longest one's length.
    resized: `pixels` resizes them. checked: warns of odd images.
    """

    model: Model
    lengths: Rows
    pixels: Callable[[Rows], Pixels]
    resized: bool = False
    checked: bool = True

    def predict(self, rows: Rows) -> list[Predicted]:
        """See `Images`."""
        lengths = self.lengths[rows].tolist()
        images = [one[:n] for one, n in zip(self.pixels(rows), lengths, strict=True)]
        warnings = [self.model.check(one) if self.checked else [] for one in images]
        return _predicted(self.model, images, warnings, [n * self.resized for n in lengths])


@dataclass
class FileImages:
    """Image files. files: of each sequence, in order."""

    model: Model
    lengths: Rows
    files: list[list[Path]]

    def predict(self, rows: Rows) -> list[Predicted]:
        """See `Images`."""
        prepared = [self.model.prepare(self.files[row]) for row in rows]
        warnings = [self.model.warnings(images) for images in prepared]
        size, whole = self.model.task.shape[1:], self.model.preprocessing.placement is None
        resized = [sum(whole and one.size != size for one in images) for images in prepared]
        return _predicted(self.model, list(map(pixels_of, prepared)), warnings, resized)


def images_of(model: Model, found: Sequences, rows: Rows) -> Images:
    """The images of some sequences of a data set."""
    lengths = found.found.lengths[rows]
    if found.files is not None:
        return FileImages(model, lengths, [found.files[row] for row in rows])
    assert found.arrays is not None
    shape = model.task.shape
    return ArrayImages(
        model,
        lengths,
        lambda some: found.pixels(rows[some], shape),
        resized=found.arrays.shape[3:] != shape[1:],
    )


def predict_all(images: Images) -> Iterator[tuple[Rows, list[Predicted]]]:
    """The predictions for all sequences, the longest first, in parts that fit into memory.

    Gives the rows of each part, and what `Images.predict` gives and raises.
    """
    for rows in batches(images.lengths, images.model.task.shape):
        yield rows, images.predict(rows)


def _predicted(
    model: Model,
    images: Sequence[Pixels],
    warnings: Sequence[list[InputWarning]],
    resized: Sequence[int],
) -> list[Predicted]:
    running = model.predict_pixels(images)
    return [
        Predicted(pixels, Prediction(values[-1], values, odd), count)
        for pixels, values, odd, count in zip(images, running, warnings, resized, strict=True)
    ]
