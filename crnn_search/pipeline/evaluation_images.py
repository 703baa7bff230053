"""What a model predicts for the images of some sequences: files, arrays, or MNIST's digits.

Shapes: `S` sequences, `B` some of them, `T` time steps, `N` some images of one, `C` channels, `H`
rows, `W` columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from crnn_search.models.input_warnings import InputWarning
from crnn_search.models.model import Model, pixels_of

Rows = NDArray[np.int64]
Pixels = NDArray[np.uint8]
Values = NDArray[np.float32]


class Predicted(NamedTuple):
    """Predictions for some sequences, `(B,)`. warnings: what is odd about their images. resized:
    how many images had another size than the model takes.
    """

    values: Values
    warnings: list[InputWarning]
    resized: int


class Images(Protocol):
    """The images of `S` sequences, and a model."""

    def predict(self, rows: Rows) -> Predicted:
        """The predictions for some sequences."""

    def shown(self, row: int, steps: Rows) -> tuple[Pixels, Values]:
        """Some images of a sequence as the model takes them, `(N, C, H, W)`, and what it predicts
        after each of them, `(N,)`.
        """


@dataclass(frozen=True)
class ArrayImages:
    """Images in memory.

    pixels: gives those of some sequences, `(B, T, C, H, W)`, where `T` is the longest one's length.
    lengths: of all sequences, `(S,)`. resized: `pixels` resizes them. checked: warns of odd images.
    """

    model: Model
    pixels: Callable[[Rows], Pixels]
    lengths: NDArray[np.int64]
    resized: bool = False
    checked: bool = True

    def predict(self, rows: Rows) -> Predicted:
        """See `Images`."""
        images, lengths = self.pixels(rows), self.lengths[rows]
        found: list[InputWarning] = []
        for sequence, length in zip(images, lengths, strict=True):
            found += self.model.check(sequence[:length]) if self.checked else []
        resized = int(lengths.sum()) if self.resized else 0
        return Predicted(self.model.predict(images, lengths), found, resized)

    def shown(self, row: int, steps: Rows) -> tuple[Pixels, Values]:
        """See `Images`."""
        images = self.pixels(np.array([row]))
        return images[0, steps], self.model.predict_running(images)[0, steps]


@dataclass(frozen=True)
class FileImages:
    """Image files. files: of each sequence, in order."""

    model: Model
    files: list[list[Path]]

    def predict(self, rows: Rows) -> Predicted:
        """See `Images`."""
        prepared = [self.model.prepare(self.files[row]) for row in rows]
        running = self.model.predict_pixels([pixels_of(images) for images in prepared])
        values = np.array([values[-1] for values in running], np.float32)
        warnings = [warning for images in prepared for warning in self.model.warnings(images)]
        size, cut = self.model.task.shape[1:], self.model.preprocessing.placement is not None
        resized = 0 if cut else sum(one.size != size for images in prepared for one in images)
        return Predicted(values, warnings, resized)

    def shown(self, row: int, steps: Rows) -> tuple[Pixels, Values]:
        """See `Images`."""
        pixels = pixels_of(self.model.prepare(self.files[row]))
        (running,) = self.model.predict_pixels([pixels])
        return pixels[steps], np.array(running, np.float32)[steps]
