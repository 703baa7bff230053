"""What the pixels of training images are like, and whether others are.

Shapes: `N` images, `C` channels, `H` rows, `W` columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from crnn_search.models.input_warnings import InputWarning

QUANTILES = (0.0005, 0.9995)
"""Of the training images' statistics: one image in a thousand is outside."""

MARGIN = 0.1
"""How far beyond them, in widths of the range, other images may be."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class PixelRanges:
    """Ranges of statistics of training images, `[low, high]`, as shares of white.

    mean: of an image's pixels. contrast: their standard deviation. detail: the mean difference of
    two neighbours.
    """

    mean: list[float]
    contrast: list[float]
    detail: list[float]

    @classmethod
    def of(cls, images: Pixels) -> Self:
        """The ranges of training images, uint8 `(N, C, H, W)`."""
        parts = [_statistics(images[n : n + 1000]) for n in range(0, len(images), 1000)]
        low, high = np.quantile(np.concatenate(parts), QUANTILES, axis=0)
        return cls(*([float(a), float(b)] for a, b in zip(low, high, strict=True)))

    def to_dict(self) -> dict[str, Any]:
        """The ranges by name, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` gave.

        Raises:
            TypeError, ValueError: a value is missing, unknown, or not valid.
        """
        for low, high in values.values():
            if not low <= high:
                raise ValueError(f"a range of pixels must be [low, high], got {[low, high]}")
        return cls(**values)

    def check(self, images: Pixels) -> list[InputWarning]:
        """A warning for each of a sequence's images, uint8 `(T, C, H, W)`, that is outside."""
        found = []
        ranges = asdict(self)
        for position, values in enumerate(_statistics(images)):
            for (name, (low, high)), value in zip(ranges.items(), values, strict=True):
                margin = MARGIN * (high - low)
                if not low - margin <= value <= high + margin:
                    message = (
                        f"its pixels are unlike those of the training images: {name} {value:.3f}, "
                        f"there {low:.3f} to {high:.3f}"
                    )
                    found.append(InputWarning("unlike_training", message, position=position))
                    break
        return found


def _statistics(images: Pixels) -> NDArray[np.float64]:
    """Mean, contrast and detail of images, uint8 `(N, C, H, W)`, `(N, 3)`."""
    pixels = images.astype(np.float32) / 255
    axes = (1, 2, 3)
    down, across = np.abs(np.diff(pixels, axis=2)), np.abs(np.diff(pixels, axis=3))
    detail = (down.mean(axes) + across.mean(axes)) / 2
    return np.stack([pixels.mean(axes), pixels.std(axes), detail], axis=1).astype(np.float64)
