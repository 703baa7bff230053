from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crnn_search.data.digits import Digits
from crnn_search.training.augment import augment

KINDS = ("affine", "shift", "elastic")


def distort(images: Tensor, **strengths: float) -> Tensor:
    torch.manual_seed(0)
    return augment(images, **(dict.fromkeys(KINDS, 0.0) | strengths))


@pytest.mark.parametrize("kind", KINDS)
def test_augmentation_distorts_with_its_strength(digits: Digits, kind: str) -> None:
    images = digits.pixels[:64]
    pixels = images.float() / 255
    weak, strong = distort(images, **{kind: 0.1}), distort(images, **{kind: 1.0})
    assert weak.shape == pixels.shape
    assert 0 < F.mse_loss(weak, pixels) < F.mse_loss(strong, pixels) < 0.1


def test_strength_zero_keeps_images(digits: Digits) -> None:
    images = digits.pixels[:64]
    torch.testing.assert_close(distort(images), images.float() / 255, rtol=0, atol=1e-5)


def test_affine_alone_is_the_formula_written_out(digits: Digits) -> None:
    """To the last digit, so that figures of trainings that use it alone stay comparable."""
    images = digits.pixels[:64, :, :20]
    rows, columns = images.shape[2:]
    torch.manual_seed(0)
    turn, grow, shear, *move = (torch.rand(5, 64) * 2 - 1) * 0.7
    angle, scale = turn * math.radians(15), 1 + 0.15 * grow
    cos, sin = angle.cos() * scale, angle.sin() * scale
    across = torch.stack([cos, (0.15 * shear - sin) * (rows / columns), move[0] * (2 / 14)], 1)
    down = torch.stack([sin * (columns / rows), cos, move[1] * (2 / 14)], 1)
    size = [64, 1, rows, columns]
    grid = F.affine_grid(torch.stack([across, down], 1), size, align_corners=False)
    expected = F.grid_sample(images.float() / 255, grid, align_corners=False)
    assert torch.equal(distort(images, affine=0.7), expected)


def test_shifts_are_uniform_up_to_a_seventh() -> None:
    rows, columns, count = 42, 28, 2000
    x, y = centres(distort(disc(rows, columns).expand(count, 1, rows, columns), shift=1.0))
    for position, side in ((x, columns), (y, rows)):
        moved = (position - (side - 1) / 2) / (side / 7)
        assert float(moved.abs().max()) == pytest.approx(1.0, abs=0.01)
        places = torch.linspace(-1, 1, count)
        assert float((moved.sort().values - places).abs().max()) < 0.07
        assert float(moved.square().mean()) == pytest.approx(1 / 3, abs=0.02)
    assert abs(float(torch.corrcoef(torch.stack([x, y]))[0, 1])) < 0.05


def test_shifts_come_on_top_of_affine_moves() -> None:
    images = disc(42, 42).expand(3000, 1, 42, 42)
    of_affine = float(centres(distort(images, affine=1.0))[0].var())
    of_shift = float(centres(distort(images, shift=1.0))[0].var())
    of_both = float(centres(distort(images, affine=1.0, shift=1.0))[0].var())
    assert of_both == pytest.approx(of_affine + of_shift, rel=0.1)


def test_elastic_moves_control_points_by_a_twentieth_and_all_between_smoothly() -> None:
    """Measured on a picture whose red tells the column, and whose green tells the row."""
    side, count, strength = 29, 2000, 0.4
    steps = (8 * torch.arange(side)).to(torch.uint8)
    red, green = steps.expand(side, side), steps[:, None].expand(side, side)
    picture = torch.stack([red, green, red]).expand(count, 3, side, side)
    found = distort(picture, elastic=strength) * (255 / 8)
    assert torch.equal(found[:, 0], found[:, 2])
    inside = slice(7, 22)  # beyond them a pixel may come from outside
    come_from = found[:, :2, inside, inside].movedim(1, 0)
    moved = come_from - torch.stack(positions(side, side))[:, None, inside, inside]
    deviation = strength * side / 20
    points = moved[..., ::7, ::7]  # rows and columns 7, 14 and 21
    assert points.mean(1).abs().max() < 4 * deviation / math.sqrt(count)
    torch.testing.assert_close(points.std(1), torch.full((2, 3, 3), deviation), rtol=0.06, atol=0)
    independent = torch.corrcoef(points.movedim(1, -1).reshape(-1, count)) - torch.eye(18)
    assert independent.abs().max() < 0.1
    for axis in (-1, -2):
        steps_between = moved.diff(dim=axis)
        assert steps_between.std() < 0.3 * deviation
        assert steps_between.diff(dim=axis).std() < 0.15 * deviation


@pytest.mark.parametrize("shape", [(1, 40, 12), (3, 9, 64)])
def test_images_of_any_shape_are_distorted_without_a_change_of_their_proportions(
    shape: tuple[int, int, int],
) -> None:
    _, rows, columns = shape
    found = distort(disc(rows, columns).expand(200, *shape), affine=1.0)
    assert found.shape == (200, *shape)
    assert torch.equal(found[:, 0], found[:, -1])
    weights = found[:, 0] / found[:, 0].sum((1, 2), keepdim=True)
    moves, spreads = [], []
    for position, centre in zip(positions(rows, columns), centres(found), strict=True):
        moves.append(float(centre.std()))
        squares = (position - centre[:, None, None]) ** 2
        spreads.append((weights * squares).sum((1, 2)).mean().sqrt())
    assert spreads[0] / spreads[1] == pytest.approx(1.0, abs=0.1)
    assert max(moves) == pytest.approx(max(rows, columns) / 14 / 3**0.5, rel=0.2)


def positions(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Column and row of each pixel."""
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return x.float(), y.float()


def disc(rows: int, columns: int) -> Tensor:
    """A disc in the middle of an image, `(1, H, W)`."""
    x, y = positions(rows, columns)
    radius = ((x - (columns - 1) / 2) ** 2 + (y - (rows - 1) / 2) ** 2).sqrt()
    return ((4.5 - radius).clamp(0, 1) * 255).to(torch.uint8).unsqueeze(0)


def centres(images: Tensor) -> tuple[Tensor, Tensor]:
    """Where the centre of each image's first channel is: columns and rows, `(N,)`."""
    weights = images[:, 0] / images[:, 0].sum((1, 2), keepdim=True)
    x, y = ((weights * p).sum((1, 2)) for p in positions(*images.shape[2:]))
    return x, y
