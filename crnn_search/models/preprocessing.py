"""How an image file becomes the pixels that a model takes: data that are stored with the model.

Shapes: `C` channels, `H` rows, `W` columns.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crnn_search.data import images
from crnn_search.data.images import size_text
from crnn_search.data.task_info import TaskInfo
from crnn_search.errors import DataError, ImageError
from crnn_search.hyperparameters import ImageShape
from crnn_search.models import digit_images
from crnn_search.models.digit_shape import MNIST, Placement
from crnn_search.models.input_warnings import InputWarning
from crnn_search.storage.checks import check_types
from crnn_search.storage.regular_file import unreadable


class Prepared(NamedTuple):
    """An image as a model takes it.

    name: what messages call it. pixels: uint8 `(C, H, W)`. size: rows and columns that it had.
    """

    name: str
    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    warnings: list[InputWarning]


@dataclass(frozen=True)
class Preprocessing:
    """How image files are prepared for a model.

    shape: of an image as the model takes it. placement: of a digit, as MNIST's are; None: the whole
    image is resized.
    """

    shape: ImageShape
    placement: Placement | None = None

    @classmethod
    def of(cls, task: TaskInfo) -> Self:
        """How image files are prepared for a task's networks."""
        return cls(task.shape, MNIST if task.sums else None)

    def to_dict(self) -> dict[str, Any]:
        """The values by name, ready for JSON, and `description`: the same for people."""
        values: dict[str, Any] = {"shape": list(self.shape)}
        if self.placement is not None:
            values["placement"] = self.placement._asdict()
        return values | {"description": self.describe()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: a value is missing, unknown, or not valid.
        """
        shape, placement = ImageShape.from_json(values["shape"]), values.get("placement")
        if placement is None:
            return cls(shape)
        check_types(placement, {"box": "int", "stroke": "float", "blur": "float"})
        digit = Placement(**placement)
        digit.check(min(shape[1:]))
        return cls(shape, digit)

    def describe(self) -> list[str]:
        """What is done with an image file, step by step."""
        size = f"{size_text(self.shape[1:])} pixels"
        if self.placement is not None:
            box, stroke, _ = self.placement
            return [
                "turned as the EXIF data say",
                "transparent pixels as paper",
                "ink found by its difference to the paper, white on black",
                f"cut to the digit, strokes widened to {stroke:g} pixels where they are thinner, "
                f"fitted into {box} × {box} pixels, its centre of mass in the centre of {size}, "
                "as in MNIST",
                "divided by 255",
            ]
        return [
            "turned as the EXIF data say",
            "16 bits a channel divided by 257",
            "transparent pixels white",
            f"converted to {'grey' if self.shape.channels == 1 else 'RGB'}",
            f"resized to {size} (rows × columns) with the Lanczos filter, proportions not kept",
            "divided by 255",
        ]

    def read(self, source: Path | bytes, name: str) -> Prepared:
        """An image file, or its content, as a model takes it. name: what messages call it.

        Raises:
            ImageError: it is missing, not a regular file, or cannot be decoded.
        """
        if isinstance(source, Path):
            if not source.exists():
                raise ImageError(f"{name} does not exist; {self._valid}")
            if reason := unreadable(source):
                raise ImageError(f"{name} cannot be read: {reason}; {self._valid}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Pillow, on data that it repairs
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                prepared = self._decode(source, name)
        except DataError as error:
            raise ImageError(f"{name} {error}; {self._valid}") from error
        return prepared._replace(warnings=[replace(one, file=name) for one in prepared.warnings])

    def _decode(self, source: Path | bytes, name: str) -> Prepared:
        if self.placement is None:
            size, _ = images.read_header(source)
            pixels = images.read_image(source, self.shape[1:], self.shape.channels)
            return Prepared(name, pixels, size, [])
        grey = digit_images.read_grey(source)
        pixels, found = digit_images.as_digit(grey, self.shape.rows, self.placement)
        return Prepared(name, pixels[None], (grey.shape[0], grey.shape[1]), found)

    @property
    def _valid(self) -> str:
        valid = "give an image file such as a PNG"
        if self.placement is not None:
            return valid
        channels = "in grey" if self.shape.channels == 1 else "in colour"
        return f"{valid} (the model takes {size_text(self.shape[1:])} pixels {channels})"
