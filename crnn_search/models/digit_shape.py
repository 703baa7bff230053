"""Ink placed as MNIST's digits are (Y. LeCun, C. Cortes, C. Burges, "The MNIST database").

There, a digit was fitted into 20 × 20 pixels, with its proportions, and its centre of mass became
the centre of 28 × 28.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from crnn_search.models.digit_ink import Pixels
from crnn_search.models.input_warnings import InputWarning

IS_INK = 0.3
"""Share of the strongest ink from which on a pixel belongs to a stroke."""

SPECK = 0.02
"""Parts with less than this share of the largest part's pixels are dirt."""

LEAST_HEIGHT = 0.08
"""Parts of less than this share of the image's shorter side are no digit, if others are left."""

TALL = 0.25
"""A part of this share of the tallest part's height may be a digit of its own."""

WIDEST = 1.35
"""The width of a digit, in heights, from which on it is more than one."""

SEVERAL = InputWarning(
    "several", "it shows more than one digit, the sum may be wrong; use a picture of each"
)
CUT_OFF = InputWarning(
    "cut_off",
    "its digit reaches the border, the sum may be wrong; use a picture with paper around it",
)


class Placement(NamedTuple):
    """How a digit is placed.

    box: pixels of the square that it fills in one direction. stroke: the width of a stroke in it,
    in pixels: thinner ones are made as wide. blur: standard deviation, in pixels, of the blur of a
    stroke's border.
    """

    box: int
    stroke: float
    blur: float

    def check(self, side: int) -> None:
        """Check the values for images of `side` pixels. Raises ValueError."""
        if not (1 <= self.box <= side and 0 <= self.stroke <= self.box and 0 < self.blur <= side):
            raise ValueError(
                f"a placement must have a box of 1 to {side} pixels, a stroke of 0 to the box and "
                f"a blur above 0, got {self}"
            )


MNIST = Placement(box=20, stroke=3.0, blur=0.5)
"""As MNIST's digits are placed."""


class Part(NamedTuple):
    """Pixels of ink that touch: its label, first column and row, width, height, pixels."""

    label: int
    x: int
    y: int
    width: int
    height: int
    pixels: int


def place(
    ink: Pixels, side: int, placement: Placement
) -> tuple[npt.NDArray[np.uint8], InputWarning | None]:
    """Ink, `(H, W)`, as an image of `side` pixels; and a warning or None.

    What is not ink is cut off, specks are left out, and thin strokes are widened, as MNIST's are.
    """
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        (ink > IS_INK * ink.max()).astype(np.uint8), connectivity=8
    )
    found = [Part(n, *map(int, row)) for n, row in enumerate(stats) if n]
    inside = [part for part in found if _is_inside(part, *ink.shape)]
    cut_off = max((p.height for p in inside), default=0) < LEAST_HEIGHT * min(ink.shape)
    if not cut_off:
        found = inside  # what reaches the border is a shadow, or something beside the paper
    largest = max(part.pixels for part in found)
    parts = [part for part in found if part.pixels >= SPECK * largest]
    kept = np.isin(labels, [part.label for part in parts]).astype(np.uint8)
    around = cv2.dilate(kept, np.ones((3, 3), np.uint8))
    digit = _centred(_fitted(ink * around, kept, placement), side, placement.blur)
    if _several(parts):
        return digit, SEVERAL
    return digit, CUT_OFF if cut_off else None


def _is_inside(part: Part, height: int, width: int) -> bool:
    """Whether a part does not reach the border of an image of this size."""
    right, bottom = part.x + part.width, part.y + part.height
    return part.x > 0 and part.y > 0 and right < width and bottom < height


def _several(parts: list[Part]) -> bool:
    """Whether tall parts lie beside or above each other, or the whole is too wide for one digit."""
    left, right = min(p.x for p in parts), max(p.x + p.width for p in parts)
    top, bottom = min(p.y for p in parts), max(p.y + p.height for p in parts)
    if right - left > WIDEST * (bottom - top):
        return True
    tallest = max(part.height for part in parts)
    tall = [part for part in parts if part.height >= TALL * tallest]
    return any(
        _apart(a.x, a.width, b.x, b.width) or _apart(a.y, a.height, b.y, b.height)
        for a, b in itertools.combinations(tall, 2)
    )


def _apart(a: int, a_size: int, b: int, b_size: int) -> bool:
    return a + a_size <= b or b + b_size <= a


def _fitted(ink: Pixels, strokes: npt.NDArray[np.uint8], placement: Placement) -> Pixels:
    """The ink, cut out and fitted into the box, with strokes that are not too thin."""
    height, width = _cut(ink, strokes).shape
    scale = placement.box / max(height, width)
    # The mean distance of a stroke's pixels to its border is a quarter of its width.
    distance = cv2.distanceTransform(np.pad(strokes, 1), cv2.DIST_L2, 3)
    missing = placement.stroke / scale - 4 * float(distance[distance > 0].mean())
    if missing > 1:
        size = 1 + round(missing)
        ink, strokes = np.pad(ink, size), np.pad(strokes, size)
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
        ink = np.asarray(cv2.dilate(ink, kernel), float)
        strokes = np.asarray(cv2.dilate(strokes, kernel), np.uint8)
    cut = _cut(ink, strokes)
    scale = placement.box / max(cut.shape)
    height, width = (max(1, round(side * scale)) for side in cut.shape)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    fitted = np.asarray(cv2.resize(cut, (width, height), interpolation=how), float)
    return np.clip(fitted * (255 / max(1.0, float(np.sort(fitted, axis=None)[-4:][0]))), 0, 255)


def _cut(ink: Pixels, strokes: npt.NDArray[np.uint8]) -> Pixels:
    """The rows and columns that have strokes."""
    x, y, width, height = cv2.boundingRect(strokes)
    return ink[y : y + height, x : x + width]


def _centred(digit: Pixels, side: int, blur: float) -> npt.NDArray[np.uint8]:
    """The digit with its centre of mass, to the next pixel, in the centre of a black image."""
    moments = cv2.moments(digit)
    image = np.zeros((side, side), np.uint8)
    centre = moments["m01"] / moments["m00"], moments["m10"] / moments["m00"]
    top, left = (
        min(max(0, round((side - 1) / 2 - middle)), side - size)
        for middle, size in zip(centre, digit.shape, strict=True)
    )
    image[top : top + digit.shape[0], left : left + digit.shape[1]] = digit.round()
    soft = cv2.GaussianBlur(image, (0, 0), blur, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(soft * (255 / soft.max())).round().astype(np.uint8)
