"""Image files as a model takes them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from crnn_search.data import images
from crnn_search.data.images import size_text
from crnn_search.data.task_info import TaskInfo
from crnn_search.errors import DataError, ImageError
from crnn_search.models.digit_images import read_digit
from crnn_search.storage.regular_file import unreadable


def preprocessing(task: TaskInfo) -> str:
    """How an image file becomes the pixels that a network takes, for people."""
    if task.sums:
        size = size_text(task.shape[1:])
        return (
            "turned as the EXIF data say; transparent pixels as paper; ink found by its difference "
            "to the paper, white on black; cut to the digit, fitted into 20 × 20 pixels, its "
            f"centre of mass in the centre of {size} pixels, as in MNIST; divided by 255"
        )
    mode = "grey" if task.shape.channels == 1 else "RGB"
    return (
        "turned as the EXIF data say; 16 bits a channel divided by 257; transparent pixels white; "
        f"converted to {mode}; resized to {size_text(task.shape[1:])} pixels (rows × columns) with "
        "the Lanczos filter, proportions not kept; divided by 255"
    )


def read_images(paths: Sequence[Path], task: TaskInfo, tell: Callable[[str], None]) -> Tensor:
    """A sequence of image files as a task's networks take it, uint8 `(T, C, H, W)`.

    tell: called with warnings, and with a note if images were resized.

    Raises:
        ImageError: a file is missing, not a regular file, or cannot be decoded.
    """
    if task.sums:
        digits = [read_digit(path, lambda text: tell(f"warning: {text}")) for path in paths]
        return torch.stack(digits).unsqueeze(1)
    size, resized = task.shape[1:], []
    sequence = np.empty((len(paths), *task.shape), np.uint8)
    for number, path in enumerate(paths):
        try:
            found, sequence[number] = _read(path, task)
        except DataError as error:
            channels = "in grey" if task.shape.channels == 1 else "in colour"
            raise ImageError(
                f"{path} {error}; give an image file such as a PNG (the model takes "
                f"{size_text(size)} pixels {channels})"
            ) from error
        if found != size:
            resized.append(f"{path}, {size_text(found)}")
    if resized:
        tell(
            f"note: {len(resized)} of {len(paths)} images were resized to {size_text(size)} pixels "
            f"(rows × columns); the first was {resized[0]}"
        )
    return torch.from_numpy(sequence)


def _read(path: Path, task: TaskInfo) -> tuple[tuple[int, int], NDArray[np.uint8]]:
    """The size that an image file had, and the image, uint8 `(C, H, W)`."""
    if not path.exists():
        raise DataError("does not exist")
    if reason := unreadable(path):
        raise DataError(f"cannot be read: {reason}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, on data that it repairs
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        size, _ = images.read_header(path)
        return size, images.read_image(path, task.shape[1:], task.shape.channels)
