"""Exported models as functions from images to predictions.

Every format has one contract. Inputs: `images`, float32 `(B, T, C, H, W)` in [0, 1], and
`lengths`, int64 `(B,)`, each from 1 to `T`; any `B` and any `T` from 1 on. Outputs: `prediction`,
or `sum` for MNIST's sums, float32 `(B,)`, in the target's unit; and `running_prediction`, or
`running_sum`, float32 `(B, T)`, the prediction after each image. Images at or beyond a sequence's
length are padding and have no effect. What a file says of its model, with the shape of an image,
`(C, H, W)`, is in `info`.

This module and all that reads ONNX files need no PyTorch.

Shapes: `B` sequences, `T` time steps, `C` channels, `H` rows, `W` columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crnn_search.data.task_info import TaskInfo
from crnn_search.errors import InputError, ModelFileError
from crnn_search.hyperparameters import ImageShape
from crnn_search.models.folder import FORMATS, ModelFolder
from crnn_search.models.info import ModelInfo
from crnn_search.storage.regular_file import unreadable
from crnn_search.storage.run_folder import RunFolder

CHUNK_PIXELS = 2_000_000
"""Pixels of images that are encoded at once: with 32 channels of float32 a quarter of a GB."""

MAX_DIFFERENCE = 1e-3
"""Largest difference in a prediction that arithmetic may make, in the target's standard deviations,
or in MNIST's sums: of their task `scale` is 1."""

Floats = NDArray[np.float32]
Lengths = NDArray[np.int64]


@dataclass(frozen=True)
class Predictor:
    """A model as a function: the contract above.

    function: `images` and `lengths` to the predictions after each image, float32 `(B, T)`; what is
    at or beyond a length has no meaning.
    """

    function: Callable[[Floats, Lengths], Floats]
    info: ModelInfo

    @property
    def task(self) -> TaskInfo:
        """What is predicted, from which images."""
        return self.info.task

    @property
    def shape(self) -> ImageShape:
        """The shape of an image."""
        return self.task.shape

    def __call__(self, images: Floats, lengths: Lengths) -> Floats:
        """The predictions after the last images, float32 `(B,)`.

        Raises:
            InputError: images have another shape than the network's.
        """
        running = self.running(images, lengths)
        return running[np.arange(len(lengths)), lengths - 1]

    def running(self, images: Floats, lengths: Lengths) -> Floats:
        """The prediction after each image, float32 `(B, T)`; NaN from a sequence's length on.

        Raises as a call.
        """
        if images.ndim != 5 or tuple(images.shape[2:]) != self.shape:
            raise InputError(
                f"images must have the shape {shape_text(self.shape)}, got {tuple(images.shape)}"
            )
        running = self.function(images, lengths)
        padding = np.arange(images.shape[1]) >= lengths[:, None]
        return np.where(padding, np.float32(np.nan), running)


def at_once(shape: ImageShape, steps: int = 1) -> int:
    """How many sequences of so many images are predicted at once, so that memory stays bounded."""
    return max(1, CHUNK_PIXELS // (steps * shape.rows * shape.columns))


def batches(lengths: Lengths, shape: ImageShape) -> Iterator[Lengths]:
    """The rows of sequences of these lengths, `(S,)`, in parts to predict at once, longest first.

    Sequences of similar lengths need little padding.
    """
    rows, start = np.argsort(-lengths, kind="stable"), 0
    while start < len(rows):
        stop = start + at_once(shape, int(lengths[rows[start]]))
        yield rows[start:stop]
        start = stop


def tolerance(task: TaskInfo, predictions: Floats) -> float:
    """The largest difference to these predictions that arithmetic may make, in the target's unit.

    `MAX_DIFFERENCE`, but not less than what float32 resolves where the target is large and varies
    little.
    """
    largest = float(np.abs(np.nan_to_num(predictions, nan=0, posinf=0, neginf=0)).max())
    return max(MAX_DIFFERENCE * task.scale, 4 * float(np.finfo(np.float32).eps) * largest)


def shape_text(shape: tuple[int, ...]) -> str:
    """The shape of sequences of images, for messages: `(B, T, 1, 28, 28)`."""
    return f"(B, T, {', '.join(map(str, shape))})"


def load(path: Path) -> Predictor:
    """The model in a file, a model's folder or a run's folder, as a function, on the CPU.

    Of a folder's files the first of `FORMATS` is taken.

    Raises:
        ModelFileError: the file is missing or is not a model of this package.
    """
    if path.is_dir():
        return load(_model_file(path))
    if not path.exists():
        raise ModelFileError(
            f"{path} does not exist; give a model's file, or its or a run's folder"
        )
    if reason := unreadable(path):
        raise ModelFileError(f"{path} cannot be read: {reason}")
    reader = _READERS.get(path.suffix.removeprefix("."))
    if reader is None:
        raise ModelFileError(f"a model's file must end in .{', .'.join(FORMATS)}, got {path}")
    return reader(path)


def _model_file(folder: Path) -> Path:
    """The preferred model file of a model's or a run's folder."""
    for place in (ModelFolder(folder), ModelFolder(RunFolder(folder).model)):
        for name in FORMATS:
            if place.model(name).is_file():
                return place.model(name)
    names = ", ".join(ModelFolder(folder).model(name).name for name in FORMATS)
    raise ModelFileError(f"{folder} has no model: none of {names} is in it or in its folder model")


def _load_onnx(path: Path) -> Predictor:
    from crnn_search.models import onnx_file

    return Predictor(*onnx_file.load(path))


def _load_safetensors(path: Path) -> Predictor:
    from crnn_search.models import torch_file  # PyTorch is slow to import

    return Predictor(*torch_file.load(path))


_READERS: dict[str, Callable[[Path], Predictor]] = {
    "onnx": _load_onnx,
    "safetensors": _load_safetensors,
}
