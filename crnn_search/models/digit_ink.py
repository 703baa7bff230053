"""What of an image is ink, and how much."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from crnn_search.models.input_warnings import InputWarning

Pixels = npt.NDArray[np.float64]
"""`(H, W)`, from 0, black, to 255, white."""

FULL_CONTRAST = 240
"""Ink that differs from the paper by this much is not stretched."""

LEAST_CONTRAST = 8
"""Ink that differs by less is noise: the image is empty."""

UNEVEN = 0.1
"""Paper that differs by more, relative to the ink, is not only noisy."""

COARSE = 28
"""Pixels of the longer side of the small image that shows the paper."""

STROKE = 9
"""Pixels of these: ink is narrower, a shadow is not."""

EMPTY = InputWarning("empty", "there is nothing to read in it, it counts as black")
UNEVEN_LIGHT = InputWarning(
    "uneven_light", "its light is uneven, the sum may be wrong; use a picture without shadows"
)

MARGIN = 3
"""How many standard deviations of the border's pixels count as paper."""


def find_ink(grey: Pixels) -> tuple[Pixels, InputWarning | None]:
    """How much ink each pixel has, white on black, stretched; and a warning or None.

    Whether ink is brighter or darker than its paper, and whether the paper has shadows, is seen on
    a small image, in which ink is narrow. An image without ink is zero.
    """
    small = _reduced(grey)
    paper, sign, shadow = _paper(small, whole=small is grey)
    reduced = small is not grey
    if reduced:
        grey = np.asarray(cv2.GaussianBlur(grey, (0, 0), 0.7), float)
    if shadow:
        paper = sign * _local_paper(sign * grey, round(STROKE * max(grey.shape) / max(small.shape)))
    elif reduced:
        size = grey.shape[::-1]
        paper = np.asarray(cv2.resize(paper, size, interpolation=cv2.INTER_LINEAR), float)
    ink = _without_noise(sign * (grey - paper))
    strongest = _strongest(ink)
    if strongest < LEAST_CONTRAST:
        return np.zeros_like(ink), EMPTY
    if strongest < FULL_CONTRAST:
        ink = np.clip(ink * (255 / strongest), 0, 255)
    return ink, UNEVEN_LIGHT if shadow else None


def _reduced(grey: Pixels) -> Pixels:
    """The image with `COARSE` pixels on its longer side, and some on the other, or fewer."""
    share = COARSE / max(grey.shape)
    if share >= 1:
        return grey
    height, width = (max(8, round(side * share)) for side in grey.shape)
    return np.asarray(cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA), float)


def _paper(grey: Pixels, *, whole: bool) -> tuple[Pixels, int, bool]:
    """The paper without shadows, whether ink is brighter (1) or darker (-1), and if it has some."""
    smooth = _smooth_paper(grey)
    difference = grey - smooth
    brighter, darker = _without_noise(difference), _without_noise(-difference)
    ink, sign = max((brighter, 1), (darker, -1), key=lambda found: _strongest(found[0]))
    return smooth, sign, _has_shadow(abs(difference) > UNEVEN * _strongest(ink), whole=whole)


def _has_shadow(other: npt.NDArray[np.bool_], *, whole: bool) -> bool:
    """Whether a wide region differs from the paper, and much of the border. other: `(H, W)`.

    whole: whether a digit may reach the border, since the image shows nothing else.
    """
    margin = 0 if whole else STROKE - 1
    wide = cv2.erode(_padded(other.astype(np.uint8), margin), _KERNEL, **_OUTSIDE).any()
    return bool(wide and _edge(other).mean() > (0.2 if whole else 0.05))


def _padded(values: npt.NDArray[Any], margin: int) -> npt.NDArray[Any]:
    """An image whose outermost pixels go on for so many more."""
    return cv2.copyMakeBorder(values, margin, margin, margin, margin, cv2.BORDER_REPLICATE)


_KERNEL = np.ones((STROKE, STROKE), np.uint8)
_OUTSIDE: dict[str, Any] = {"borderType": cv2.BORDER_CONSTANT, "borderValue": (0,)}


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
    return float(np.sort(ink, axis=None)[-4:][0])


def _smooth_paper(grey: Pixels) -> Pixels:
    """The paper's grey at each pixel: a quadratic surface through the outermost pixels.

    Those that differ much from it, where ink reaches the border, are left out.
    """
    y, x = np.mgrid[-1 : 1 : grey.shape[0] * 1j, -1 : 1 : grey.shape[1] * 1j]
    terms = np.stack([np.ones_like(x), x, y, x * y, x**2, y**2], axis=-1)
    edge = np.maximum(abs(x), abs(y)) == 1
    known, border = grey[edge], terms[edge]
    fits = []
    for distance in (abs(known - np.median(known)), np.zeros(len(known))):
        before = None
        for _ in range(10):
            use = distance <= max(3 * float(np.median(distance)), 2.0)
            if before is not None and (use == before).all():
                break
            before = use
            weights = np.linalg.lstsq(border[use], known[use], rcond=None)[0]
            distance = abs(known - border @ weights)
        fits.append((float(np.median(distance)), weights.tolist()))
    weights = np.array(min(fits)[1])
    paper: Pixels = np.clip(terms @ weights, 0, 255)
    return paper


def _local_paper(grey: Pixels, stroke: int) -> Pixels:
    """The paper below brighter ink: each pixel's neighbourhood, but for what is narrower."""
    margin = stroke - 1
    kernel = np.ones((stroke, stroke), np.uint8)
    padded = _padded(grey.astype(np.float32), margin)  # four times as fast as float64
    opened = cv2.morphologyEx(padded, cv2.MORPH_OPEN, kernel)
    return np.asarray(opened, float)[margin:-margin, margin:-margin]
