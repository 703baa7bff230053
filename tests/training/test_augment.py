from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from crnn_search.data.digits import Digits
from crnn_search.training.augment import augment


def test_augmentation_distorts_with_its_strength(digits: Digits) -> None:
    images = digits.pixels[:64]
    pixels = images.float() / 255
    torch.manual_seed(0)
    weak, strong = augment(images, 0.1), augment(images, 1.0)
    assert weak.shape == pixels.shape
    assert 0 < F.mse_loss(weak, pixels) < F.mse_loss(strong, pixels) < 0.1


def test_strength_zero_keeps_images(digits: Digits) -> None:
    images = digits.pixels[:64]
    torch.testing.assert_close(augment(images, 0.0), images.float() / 255, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 40, 12), (3, 9, 64)])
def test_images_of_any_shape_are_distorted_without_a_change_of_their_proportions(
    shape: tuple[int, int, int],
) -> None:
    _, rows, columns = shape
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    radius = ((x - (columns - 1) / 2) ** 2 + (y - (rows - 1) / 2) ** 2).sqrt()
    disc = ((4.5 - radius).clamp(0, 1) * 255).to(torch.uint8)
    torch.manual_seed(0)
    found = augment(disc.expand(200, *shape), 1.0)
    assert found.shape == (200, *shape)
    assert torch.equal(found[:, 0], found[:, -1])
    weights = found[:, 0] / found[:, 0].sum((1, 2), keepdim=True)
    spreads, moves = [], []
    for position in (x.float(), y.float()):
        mean = (weights * position).sum((1, 2), keepdim=True)
        spreads.append((weights * (position - mean) ** 2).sum((1, 2)).mean().sqrt())
        moves.append(float(mean.std()))
    assert spreads[0] / spreads[1] == pytest.approx(1.0, abs=0.1)
    assert max(moves) == pytest.approx(max(rows, columns) / 14 / 3**0.5, rel=0.2)
