"""Random distortions of training images."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

CONTROL_POINTS = 5
"""Rows and columns of the coarse grid of an elastic distortion, from edge to edge of an image."""


def augment(images: Tensor, affine: float, shift: float = 0.0, elastic: float = 0.0) -> Tensor:
    """Random distortions of images, uint8 `(N, C, H, W)`; float `(N, C, H, W)` in [0, 1].

    What each kind does at strength 1, by draws from PyTorch's global generator:

    - affine: turns an image by up to 15°, scales and shears it by up to 15 %, and moves it by up to
      a fourteenth of its width and height; uniform.
    - shift: moves it by up to a seventh of its width and height; uniform.
    - elastic: moves the points of a coarse grid by normal draws with a standard deviation of a
      twentieth of its width and height, and the pixels between them by bicubic interpolation
      (Ronneberger et al., arXiv:1505.04597).

    What moves in is zero.
    """
    pixels = images.float().div_(255)
    grid = F.affine_grid(_matrices(pixels, affine, shift), list(pixels.shape), align_corners=False)
    if elastic:
        shape = len(pixels), 2, CONTROL_POINTS, CONTROL_POINTS
        coarse = torch.randn(shape, device=pixels.device).mul_(elastic * 2 / 20)
        fine = F.interpolate(coarse, pixels.shape[2:], mode="bicubic", align_corners=True)
        grid = grid + fine.permute(0, 2, 3, 1)
    return F.grid_sample(pixels, grid, align_corners=False)


def _matrices(pixels: Tensor, affine: float, shift: float) -> Tensor:
    """Where each image's pixels come from, `(N, 2, 3)`; an image is two units wide and high."""
    count, (rows, columns), device = len(pixels), pixels.shape[2:], pixels.device
    draw = torch.zeros(5, count, device=device)
    if affine:
        draw = torch.rand(5, count, device=device).mul_(2).sub_(1).mul_(affine)
    angle, scale, shear = draw[0] * math.radians(15), 1 + 0.15 * draw[1], 0.15 * draw[2]
    moved = draw[3:] * (2 / 14)
    if shift:
        moved = moved + torch.rand(2, count, device=device).mul_(2).sub_(1).mul_(shift * 2 / 7)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    top = torch.stack([cos, (shear - sin) * (rows / columns), moved[0]], dim=1)
    bottom = torch.stack([sin * (columns / rows), cos, moved[1]], dim=1)
    return torch.stack([top, bottom], dim=1)
