"""What a model predicts for the images of some sequences: files, arrays, or MNIST's digits.

Shapes: `S` sequences, `B` some of them, `T` time steps, `N` some images of one, `C` channels, `H`
rows, `W` columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from crnn_search.models.input_warnings import InputWarning
from crnn_search.models.model import Model

Rows = NDArray[np.int64]
Pixels = NDArray[np.uint8]
Values = NDArray[np.float32]


class Images(Protocol):
    """The images of `S` sequences, and a model."""

    def predict(self, rows: Rows) -> tuple[Values, list[InputWarning]]:
        """The predictions for some sequences, `(B,)`, and what is odd about their images."""

    def shown(self, row: int, steps: Rows) -> tuple[Pixels, Values]:
        """Some images of a sequence as the model takes them, `(N, C, H, W)`, and what it predicts
        after each of them, `(N,)`.
        """


@dataclass(frozen=True)
class ArrayImages:
    """Images in memory. pixels: gives those of some sequences, `(B, T, C, H, W)`, where `T` is the
    longest one's length. lengths: of all sequences, `(S,)`. checked: warns of odd images.
    """

    model: Model
    pixels: Callable[[Rows], Pixels]
    lengths: NDArray[np.int64]
    checked: bool = True

    def predict(self, rows: Rows) -> tuple[Values, list[InputWarning]]:
        """See `Images`."""
        images, lengths = self.pixels(rows), self.lengths[rows]
        found: list[InputWarning] = []
        for sequence, length in zip(images, lengths, strict=True):
            found += self.model.check(sequence[:length]) if self.checked else []
        return self.model.predict(images, lengths), found

    def shown(self, row: int, steps: Rows) -> tuple[Pixels, Values]:
        """See `Images`."""
        images = self.pixels(np.array([row]))
        return images[0, steps], self.model.predict_running(images)[0, steps]


@dataclass(frozen=True)
class FileImages:
    """Image files. files: of each sequence, in order."""

    model: Model
    files: list[list[Path]]

    def predict(self, rows: Rows) -> tuple[Values, list[InputWarning]]:
        """See `Images`."""
        found = self.model.predict_files([self.files[row] for row in rows])
        values = np.array([one.value for one in found], np.float32)
        return values, [warning for one in found for warning in one.warnings]

    def shown(self, row: int, steps: Rows) -> tuple[Pixels, Values]:
        """See `Images`."""
        files = self.files[row]
        (found,) = self.model.predict_files([files])
        read = self.model.preprocessing.read
        pixels = np.stack([read(files[step]).pixels for step in steps])
        return pixels, np.array(found.running, np.float32)[steps]
