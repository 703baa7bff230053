"""Pictures whose pixels are unlike the training images' are told apart."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn_search.models.pixel_ranges import PixelRanges


def strokes(count: int, seed: int = 0) -> np.ndarray:
    """White bars on black, uint8 `(N, 1, 28, 28)`."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, 1, 28, 28), np.uint8)
    for image in images:
        left, top, width, height = rng.integers([4, 4, 2, 8], [20, 10, 6, 16])
        image[0, top : top + height, left : left + width] = 255
    return images


RANGES = PixelRanges.of(strokes(500))


def test_ranges_are_those_of_the_statistics() -> None:
    image = np.zeros((1, 1, 8, 8), np.uint8)
    image[0, 0, :, 4:] = 255
    ranges = PixelRanges.of(np.repeat(image, 3, 0))
    assert ranges.mean == pytest.approx([0.5, 0.5])
    assert ranges.contrast == pytest.approx([0.5, 0.5])
    assert ranges.detail == pytest.approx([1 / 14] * 2)  # one of seven columns changes, no row


def test_images_like_those_of_training_are_fine() -> None:
    assert RANGES.check(strokes(200, seed=1)) == []


@pytest.mark.parametrize(
    ("kind", "name"),
    [("black", "mean"), ("inverted", "mean"), ("noise", "mean"), ("chess", "mean")],
)
def test_other_images_are_warned_of(kind: str, name: str) -> None:
    others = {
        "black": np.zeros((1, 1, 28, 28), np.uint8),
        "inverted": 255 - strokes(1, seed=2),
        "noise": np.random.default_rng(0).integers(256, size=(1, 1, 28, 28), dtype=np.uint8),
        "chess": np.indices((28, 28)).sum(0).astype(np.uint8)[None, None] % 2 * 255,
    }
    (warning,) = RANGES.check(np.concatenate([strokes(2), others[kind]]))
    assert (warning.kind, warning.position) == ("unlike_training", 2)
    assert f"unlike those of the training images: {name} " in warning.message


def test_detail_alone_is_enough() -> None:
    """Rows in another order keep mean and contrast."""
    mixed = strokes(1, seed=3)[:, :, np.random.default_rng(0).permutation(28)]
    assert "detail" in RANGES.check(mixed)[0].message


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(2, 30))
def test_ranges_hold_their_images_and_come_back_from_json(
    seed: int, channels: int, side: int
) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(256, size=(20, channels, side, side), dtype=np.uint8)
    ranges = PixelRanges.of(images)
    inside = [len(ranges.check(image[None])) for image in images]
    assert sum(inside) <= 6  # the extremes are outside of the quantiles, but for the margin
    assert PixelRanges.from_dict(json.loads(json.dumps(ranges.to_dict()))) == ranges
