"""Random distortions of training images."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(images: Tensor, strength: float) -> Tensor:
    """Random affine distortions of images, uint8 `(N, 28, 28)`; float `(N, 28, 28)` in [0, 1].

    At strength 1 each image turns by up to 15°, scales and shears by up to 15 % and moves by up to
    2 pixels, all uniform. Draws from PyTorch's global generator.
    """
    pixels = images.unsqueeze(1).float().div_(255)
    draw = torch.rand(5, len(pixels), device=pixels.device).mul_(2).sub_(1).mul_(strength)
    angle, scale, shear = draw[0] * math.radians(15), 1 + 0.15 * draw[1], 0.15 * draw[2]
    shift = draw[3:] * (2 * 2 / pixels.shape[-1])
    cos, sin = angle.cos() * scale, angle.sin() * scale
    top = torch.stack([cos, shear - sin, shift[0]], dim=1)
    bottom = torch.stack([sin, cos, shift[1]], dim=1)
    grid = F.affine_grid(torch.stack([top, bottom], dim=1), list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, align_corners=False).squeeze(1)
