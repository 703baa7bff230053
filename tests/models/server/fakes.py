"""A model that needs no network: it adds the mean brightness of images, from 0 to 1."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crnn_search.errors import ImageError
from crnn_search.models.input_warnings import InputWarning
from tests.models.networks import SUMS


class Read(NamedTuple):
    """An image file as a model takes it."""

    pixels: NDArray[np.uint8]
    warnings: list[InputWarning]


class FakePreprocessing:
    """Reduces an image to 28 × 28 grey pixels; a black one gets a warning."""

    def describe(self) -> list[str]:
        return ["reduced"]

    def read(self, source: bytes, name: str) -> Read:
        try:
            with Image.open(io.BytesIO(source)) as image:
                grey = np.asarray(image.convert("L").resize((28, 28)))[None]
        except Exception as error:
            raise ImageError(f"{name} cannot be decoded: {error}") from error
        warning = InputWarning("empty", "there is nothing to read in it", name)
        return Read(grey, [] if grey.any() else [warning])


@dataclass
class FakeModel:
    """With `answers` of a model, whose calls are listed by their shapes."""

    task: Any = SUMS
    preprocessing: FakePreprocessing = field(default_factory=FakePreprocessing)
    spec: dict[str, Any] = field(default_factory=lambda: {"gru_sizes": [8]})
    metrics: dict[str, Any] = field(default_factory=lambda: {"rmse": 0.5})
    bias: float = 0.0
    calls: list[tuple[int, ...]] = field(default_factory=list)

    def predict_running(
        self, images: NDArray[np.uint8], lengths: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        self.calls.append(images.shape)
        sums = (images / 255).mean(axis=(2, 3, 4)).cumsum(axis=1) + self.bias
        sums[np.arange(images.shape[1]) >= lengths[:, None]] = np.nan
        return sums.astype(np.float32)

    def check(self, pixels: NDArray[np.uint8]) -> list[InputWarning]:
        too_long = len(pixels) > self.task.longest
        return [InputWarning("too_long", "it is longer than those of the training")] * too_long


def png(brightness: int = 255, side: int = 28, file_format: str = "PNG") -> bytes:
    """An image file of one grey."""
    buffer = io.BytesIO()
    Image.new("L", (side, side), brightness).save(buffer, file_format)
    return buffer.getvalue()


def text(content: bytes) -> str:
    """Bytes as base64."""
    return base64.b64encode(content).decode()


WHITE, BLACK = text(png()), text(png(0))
