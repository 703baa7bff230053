"""Image files of digits as MNIST has them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from crnn_search.errors import ImageError
from crnn_search.models.digit_ink import Pixels, find_ink
from crnn_search.models.digit_shape import place
from crnn_search.storage.regular_file import unreadable
from crnn_search.text import first_line

SIDE = 28
"""Rows and columns of MNIST's images."""


def read_digit(path: Path, on_warning: Callable[[str], None] = lambda text: None) -> Tensor:
    """An image file of any size and mode as MNIST has them: white on black, uint8 `(28, 28)`.

    The image is turned as its EXIF data say. The outermost pixels show the paper, which may be lit
    unevenly: what differs from it, on the side that differs more, is the ink. It is placed as
    MNIST's digits are: see `digit_shape.place`; only an image of 28 × 28 pixels is taken to be
    placed already. An image without ink is black. Where pixels are transparent see `_opaque`.

    on_warning: called if the image shows nothing or more than one digit, or if its light is so
    uneven that shadows may have been taken for ink.

    Raises:
        ImageError: the file is missing, not a regular file, or cannot be decoded.
    """
    if not path.exists():
        raise ImageError(f"{path} does not exist; give an image file such as a PNG")
    if reason := unreadable(path):
        raise ImageError(f"{path} cannot be read: {reason}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, on data that it repairs
            grey = _decode(path)
    except Exception as error:  # Pillow's decoders raise any for a file that is no image or broken
        raise ImageError(
            f"{path} cannot be decoded: {first_line(error)}; give an image file such as a PNG"
        ) from error
    digit, problems = as_mnist(np.asarray(grey, dtype=np.float64))
    for problem in problems:
        on_warning(f"{path}: {problem}")
    return torch.from_numpy(digit)


def as_mnist(grey: Pixels) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """A grey image, `(H, W)`, as MNIST has them, `(28, 28)`, and what is wrong with it."""
    ink, problem = find_ink(grey)
    problems = [problem] if problem else []
    if grey.shape == (SIDE, SIDE) or not ink.any():
        blank = np.zeros((SIDE, SIDE), np.uint8)
        return (ink.round().astype(np.uint8) if ink.any() else blank), problems
    digit, problem = place(ink, SIDE)
    return digit, problems + ([problem] if problem else [])


def _decode(path: Path) -> Image.Image:
    """The image, upright, in grey, of at most `MOST` pixels a side."""
    with Image.open(path) as image:
        image.load()
        try:
            upright = ImageOps.exif_transpose(image)
        except Exception:  # broken EXIF data say nothing of the image
            upright = image
        grey = _greyscale(upright)
        grey.thumbnail((MOST, MOST), Image.Resampling.BOX)
        return grey


MOST = 512
"""Rows and columns of what is looked at: larger images are reduced."""


def _greyscale(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        # Pillow would clip values of more than 8 bits at 255: spread their own range instead.
        values = np.asarray(image, dtype=np.float64)
        finite = values[np.isfinite(values)]
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
        values = np.clip(np.nan_to_num(values, nan=low), low, high) - low
        return Image.fromarray((values / ((high - low) or 1) * 255).round().astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("L")
    layers = image.convert("RGBA")
    paper = _opaque(np.asarray(layers.convert("RGB").convert("L")), np.asarray(layers)[..., 3])
    background = Image.new("RGBA", layers.size, (paper, paper, paper, 255))
    return Image.alpha_composite(background, layers).convert("L")


def _opaque(grey: npt.NDArray[np.uint8], alpha: npt.NDArray[np.uint8]) -> int:
    """The grey, 0 to 255, that transparent pixels become.

    Ink on nothing, of whatever colour, gets the paper that differs most from it: black or white. If
    what is visible has ink of its own inside, as a card with a digit, its paper goes on.

    grey, alpha: uint8 `(H, W)`.
    """
    visible = alpha > alpha.max() / 2
    if not visible.any():
        return 255
    inside = np.pad(visible, 1)
    inside = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    rim = float(np.median(grey[visible & ~inside]))
    if (abs(grey[visible] - rim) > 255 / 4).mean() > 0.02:
        return round(rim)
    return 0 if rim > 255 / 2 else 255
