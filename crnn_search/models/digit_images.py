"""Image files of digits as MNIST has them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image, ImageOps
from torch import Tensor

from crnn_search.errors import ImageError
from crnn_search.hyperparameters import MNIST_SHAPE
from crnn_search.storage.regular_file import unreadable
from crnn_search.text import first_line

Pixels = npt.NDArray[np.float64]
"""`(H, W)`, from 0, black, to 255, white."""

FULL_CONTRAST = 240
"""Ink that differs from the paper by this much is not stretched."""

LEAST_CONTRAST = 8
"""Ink that differs by less is noise: the image is empty."""

UNEVEN = 0.1
"""Paper that differs by more, relative to the ink, is not only noisy."""

STROKE = 9
"""Pixels of 28: ink is narrower, a shadow is not."""

MARGIN = 3
"""How many standard deviations of the border's pixels count as paper."""


def read_digit(path: Path, on_warning: Callable[[str], None] = lambda text: None) -> Tensor:
    """An image file of any size and mode as MNIST has them: white on black, uint8 `(28, 28)`.

    The image is turned as its EXIF data say; an image that is not square is squeezed. The outermost
    pixels show the paper, which may be lit unevenly: what differs from it, on the side that
    differs more, is the ink, and is stretched to white on black. An image without ink is black.
    Where pixels are transparent see `_opaque`.

    on_warning: called if the image shows nothing, or if its light is so uneven that shadows may
    have been taken for ink.

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
    ink, problem = _ink(np.asarray(grey, dtype=np.float64))
    if problem:
        on_warning(f"{path}: {problem}")
    return torch.from_numpy(ink)


def _decode(path: Path) -> Image.Image:
    """The image, upright, in grey, `(28, 28)`."""
    with Image.open(path) as image:
        image.load()
        try:
            upright = ImageOps.exif_transpose(image)
        except Exception:  # broken EXIF data say nothing of the image
            upright = image
        return _greyscale(upright).resize(MNIST_SHAPE[1:], Image.Resampling.LANCZOS)


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


def _ink(grey: Pixels) -> tuple[npt.NDArray[np.uint8], str | None]:
    """How much ink each pixel has, white on black, stretched; and a warning or None."""
    problem = None
    difference = grey - _smooth_paper(grey)
    brighter, darker = _without_noise(difference), _without_noise(-difference)
    ink, sign = max((brighter, 1), (darker, -1), key=lambda found: _strongest(found[0]))
    if _has_shadow(abs(difference) > UNEVEN * _strongest(ink)):
        ink = _without_noise(sign * grey - _local_paper(sign * grey))
        problem = "its light is uneven, the sum may be wrong; use a picture without shadows"
    strongest = _strongest(ink)
    if strongest < LEAST_CONTRAST:
        ink, problem = np.zeros_like(ink), "there is nothing to read in it, it counts as black"
    elif strongest < FULL_CONTRAST:
        ink = np.clip(ink * (255 / strongest), 0, 255)
    return ink.round().astype(np.uint8), problem


def _has_shadow(other: npt.NDArray[np.bool_]) -> bool:
    """Whether a wide region differs from the paper, and much of the border. other: `(H, W)`."""
    wide = sliding_window_view(other, (STROKE, STROKE)).all(axis=(2, 3)).any()
    return bool(wide and _edge(other).mean() > 0.2)


def _edge(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The outermost pixels, `(P,)`."""
    edge = np.ones(values.shape, bool)
    edge[1:-1, 1:-1] = False
    return values[edge]


def _without_noise(ink: Pixels) -> Pixels:
    """Ink that is more than the paper's noise, of which the median tells the deviation."""
    return np.clip(ink - MARGIN * 1.4826 * float(np.median(abs(_edge(ink)))), 0, 255)


def _strongest(ink: Pixels) -> float:
    """The fourth highest value: the highest may be a speck."""
    return float(np.sort(ink, axis=None)[-4])


def _smooth_paper(grey: Pixels) -> Pixels:
    """The paper's grey at each pixel: a quadratic surface through the outermost pixels.

    Those that differ much from it, where ink reaches the border, are left out.
    """
    y, x = np.mgrid[-1 : 1 : grey.shape[0] * 1j, -1 : 1 : grey.shape[1] * 1j]
    terms = np.stack([np.ones_like(x), x, y, x * y, x**2, y**2], axis=-1)
    edge = np.maximum(abs(x), abs(y)) == 1
    known, border = grey[edge], terms[edge]
    distance = abs(known - np.median(known))
    for _ in range(10):
        use = distance <= max(3 * float(np.median(distance)), 2.0)
        weights = np.linalg.lstsq(border[use], known[use], rcond=None)[0]
        distance = abs(known - border @ weights)
    paper: Pixels = np.clip(terms @ weights, 0, 255)
    return paper


def _local_paper(grey: Pixels) -> Pixels:
    """The paper below brighter ink: each pixel's neighbourhood, but for what is narrower."""
    size = (STROKE, STROKE)
    padded = np.pad(grey, STROKE - 1, mode="edge")
    lowest = sliding_window_view(padded, size).min(axis=(2, 3))
    paper: Pixels = sliding_window_view(lowest, size).max(axis=(2, 3))
    return paper
