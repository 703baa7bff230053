"""The network's forward pass in the engine."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crnn_search.errors import ConfigError
from crnn_search.kernels import encoder, native
from crnn_search.kernels import gru as recurrence
from crnn_search.training.model import CRNN


def augment(images: Tensor, strength: float) -> Tensor:
    """Random affine distortions of images, float `(N, 1, 28, 28)`.

    At strength 1 each image turns by up to 15°, scales and shears by up to 15 % and moves by up to
    2 pixels, all uniform. Draws from PyTorch's global generator.
    """
    draw = torch.rand(5, len(images), device=images.device).mul_(2).sub_(1).mul_(strength)
    angle, scale, shear = draw[0] * math.radians(15), 1 + 0.15 * draw[1], 0.15 * draw[2]
    shift = draw[3:] * (2 * 2 / images.shape[-1])
    cos, sin = angle.cos() * scale, angle.sin() * scale
    top = torch.stack([cos, shear - sin, shift[0]], dim=1)
    bottom = torch.stack([sin, cos, shift[1]], dim=1)
    grid = F.affine_grid(torch.stack([top, bottom], dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def resolve_precision(precision: str, device: torch.device) -> str:
    """`float32`, `bfloat16` or `int16`.

    `auto` takes bfloat16 where the device computes in it natively, else int16 where that is faster.

    Raises:
        ConfigError: int16 where there are no kernels for it.
    """
    if precision == "int16" and not _in_c(device):
        lacking = (
            f"compiled kernels, but {native.problem()}"
            if device.type == "cpu"
            else f"a CPU; received {device.type}"
        )
        raise ConfigError([f"precision int16 needs {lacking}; valid here: auto, float32, bfloat16"])
    if precision != "auto":
        return precision
    if device.type == "cuda":
        computes = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        computes = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    if computes:
        return "bfloat16"
    return "int16" if _in_c(device) and native.int16_gains() else "float32"


def _encode(model: CRNN, images: Tensor, precision: str, augmentation: float = 0.0) -> Tensor:
    """Features `(N, D)` of uint8 images `(N, 28, 28)`, in the precision of the convolutions."""
    scale = 1 / 255
    if augmentation:
        images = augment(images.unsqueeze(1).float().div_(255), augmentation).squeeze(1)
        scale = 1.0
    if _in_c(images.device):
        return encoder.encode(model.encoder, model.spec, images, scale, precision)
    inputs = images.unsqueeze(1).to(torch.float32, memory_format=torch.channels_last) * scale
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        features: Tensor = model.encoder(inputs)
    return features


def _project(model: CRNN, features: Tensor, precision: str, own_gru: bool) -> Tensor:
    """What the first GRU of `recurrence` makes of each image alone: `(N, 3H)`; else features."""
    if not own_gru:
        return features.float()
    weight, bias = recurrence.of_input(_grus(model)[0])
    if _in_c(features.device) and not model.spec.embedding:
        weight = encoder.by_pixel(weight, model.spec.conv_channels[-1])
    kind = features.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=features.dtype == torch.bfloat16):
        return encoder.linear(features, weight, bias, precision).float()


def _in_c(device: torch.device) -> bool:
    """Whether images are encoded by `layers`."""
    return device.type == "cpu" and native.problem() is None


def _grus(model: CRNN) -> list[nn.GRU]:
    return [gru for gru in model.grus if isinstance(gru, nn.GRU)]


def _add_up(model: CRNN, projected: Tensor, batch_sizes: Tensor, own_gru: bool) -> Tensor:
    """Sums, float32 `(B,)`, of a packed batch of what `_project` gave."""
    if not own_gru:
        return model.add_up(projected, batch_sizes)
    first, *others = _grus(model)
    states, last = recurrence.run(first, projected, batch_sizes)
    for gru in others:
        states, last = recurrence.run(gru, F.linear(states, *recurrence.of_input(gru)), batch_sizes)
    sums: Tensor = model.output(model.dropout(last)).squeeze(1)
    return sums
