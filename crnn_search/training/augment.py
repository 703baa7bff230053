"""Random distortions of training images."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(images: Tensor, strength: float) -> Tensor:
    """Random affine distortions of images, uint8 `(N, C, H, W)`; float `(N, C, H, W)` in [0, 1].

    At strength 1 each image turns by up to 15°, scales and shears by up to 15 % and moves by up to
    a fourteenth of its width and height, all uniform. What moves in is zero. Draws from PyTorch's
    global generator.
    """
    pixels = images.float().div_(255)
    rows, columns = pixels.shape[2:]
    draw = torch.rand(5, len(pixels), device=pixels.device).mul_(2).sub_(1).mul_(strength)
    angle, scale, shear = draw[0] * math.radians(15), 1 + 0.15 * draw[1], 0.15 * draw[2]
    shift = draw[3:] * (2 / 14)  # an image is two units wide and high
    cos, sin = angle.cos() * scale, angle.sin() * scale
    top = torch.stack([cos, (shear - sin) * (rows / columns), shift[0]], dim=1)
    bottom = torch.stack([sin * (columns / rows), cos, shift[1]], dim=1)
    grid = F.affine_grid(torch.stack([top, bottom], dim=1), list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, align_corners=False)
