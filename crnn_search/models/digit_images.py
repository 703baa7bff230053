"""Image files of digits as MNIST has them.

Shapes: `H` rows, `W` columns of a file; `N` rows and columns of a digit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from crnn_search.data.images import has_several, opened
from crnn_search.errors import DataError
from crnn_search.models.digit_ink import Pixels, find_ink
from crnn_search.models.digit_shape import Placement, place
from crnn_search.models.input_warnings import InputWarning

MOST = 512
"""Rows and columns of what is looked at: larger images are reduced."""


def as_digit(
    grey: Pixels, side: int, placement: Placement
) -> tuple[npt.NDArray[np.uint8], list[InputWarning]]:
    """A grey image, `(H, W)`, as MNIST has them, `(N, N)`, and what is wrong with it.

    The outermost pixels show the paper, which may be lit unevenly: what differs from it, on the
    side that differs more, is the ink. It is placed as MNIST's digits are: see `digit_shape.place`;
    only an image of `side` pixels is taken to be placed already. One without ink is black.
    """
    ink, problem = find_ink(grey)
    problems = [problem] if problem else []
    if not ink.any():
        return np.zeros((side, side), np.uint8), problems
    if grey.shape == (side, side):
        return ink.round().astype(np.uint8), problems
    digit, problem = place(ink, side, placement)
    return digit, problems + ([problem] if problem else [])


def read_grey(source: Path | bytes) -> Pixels:
    """An image file of any size and mode, upright, in grey, of at most `MOST` pixels a side.

    Where pixels are transparent see `_opaque`.

    Raises:
        DataError: it cannot be decoded, is animated or too large.
    """
    with opened(source) as image:
        if has_several(image):
            raise DataError("has several frames; save each as a file of its own")
        image.load()
        try:
            upright = ImageOps.exif_transpose(image)
        except Exception:  # broken EXIF data say nothing of the image
            upright = image
        grey = _greyscale(upright)
        grey.thumbnail((MOST, MOST), Image.Resampling.BOX)
        return np.asarray(grey, dtype=np.float64)


def _greyscale(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        # Pillow would clip values of more than 8 bits at 255: spread their own range instead.
        values = np.array(image, dtype=np.float32)  # changed in place: it may be a large image
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        np.nan_to_num(values, copy=False, nan=low)
        np.clip(values, low, high, out=values)
        values -= low
        values *= 255 / ((high - low) or 1)
        return Image.fromarray(values.round(out=values).astype(np.uint8))
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
