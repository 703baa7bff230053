"""The encoder on a CPU: products by PyTorch, everything between them by `ops`.

The first layer's map is pooled before it is stored, and its normalisation needs no pass over it: a
convolution is linear, so its mean and variance follow from those of the pixels under it (`w·m` and
`wᵀCw`), and normalising is another weight and bias.

Shapes: `N` images, `I` channels of an image, `C` channels, `D` features, `k` kernel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crnn_search.kernels import ops
from crnn_search.kernels.ops import Stem
from crnn_search.kernels.signatures import POINTS

WINOGRAD_TILE = 4
"""Side of a tile of results in winograd.c."""


@dataclass
class Layer:
    """A convolution, its batch norm and its max-pooling (1 is none), followed by ReLU."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None = None
    pool: int = 1


class Moments(NamedTuple):
    """What batch norm normalises by: mean and variance, `(C,)` each.

    from_batch: whether they are those of the maps themselves and so have gradients.
    """

    mean: Tensor
    variance: Tensor
    eps: float
    from_batch: bool


class KernelEncoder(nn.Sequential):
    """Modules of an encoder, with its convolutional layers computed in C.

    Takes the encoder's modules over as they are, so parameters, buffers and their names are the
    same. On another device than a CPU the encoder itself computes.
    """

    def __init__(self, encoder: nn.Sequential) -> None:
        super().__init__(*encoder)
        _split(self)
        self._plain = (encoder,)  # in a tuple: registered, its parameters would be there twice

    def forward(self, images: Tensor) -> Tensor:
        """Images `(N, I, H, W)`, uint8, or float in [0, 1], to features `(N, D)`.

        Under autocast to bfloat16 maps are stored in bfloat16, else in float32.
        """
        if images.device.type != "cpu":
            features: Tensor = self._plain[0](images)
            return features
        scale = 1 / 255 if images.dtype == torch.uint8 else 1.0
        autocast = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if autocast else torch.float32
        (first, *inner), rest = _split(self)
        maps = first_layer(first, images, scale, dtype)
        for layer in inner:
            maps = inner_layer(layer, maps)
        for module in rest:
            maps = module(maps)
        return maps


def _split(encoder: nn.Sequential) -> tuple[list[Layer], list[nn.Module]]:
    """The convolutional layers, and the modules after them, from `nn.Flatten` on.

    Raises:
        TypeError: a module among the layers has no kernel.
    """
    layers: list[Layer] = []
    modules = list(encoder)
    for number, module in enumerate(modules):
        match module:
            case nn.Conv2d() if _has_kernel(module):
                layers.append(Layer(module))
            case nn.BatchNorm2d() if layers:
                layers[-1].norm = module
            case nn.MaxPool2d(kernel_size=int(pool)) if layers:
                layers[-1].pool = pool
            case nn.ReLU() if layers:
                pass
            case nn.Flatten() if layers:
                return layers, modules[number:]
            case _:
                raise TypeError(f"module {number} of the encoder has no compiled kernel: {module}")
    raise TypeError("the encoder has no nn.Flatten after its convolutions")


def _has_kernel(conv: nn.Conv2d) -> bool:
    ordinary = conv.stride == conv.dilation == (1, 1) and conv.groups == 1
    return ordinary and conv.padding in ("same", "valid")


def first_layer(layer: Layer, pixels: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """Pixels `(N, I, H, W)` times scale to maps `(N, C, H, W)` of `dtype`, channels last."""
    conv, norm = layer.conv, layer.norm
    pixels = pixels.contiguous()
    _, inputs, rows, columns = pixels.shape
    kernel, channels = conv.kernel_size[0], conv.out_channels
    stem = Stem(inputs, rows, columns, layer.pool, kernel, channels, *_padding(conv))
    weight, bias = conv.weight.flatten(1) * scale, conv.bias
    if norm is not None:
        mean, variance = _stem_moments(norm, weight, pixels, stem)
        gain = norm.weight * (variance + norm.eps).rsqrt()
        weight, bias = weight * gain[:, None], norm.bias - mean * gain
    result: Tensor = _Stem.apply(pixels, weight, bias, stem, dtype)
    return result


def inner_layer(layer: Layer, maps: Tensor) -> Tensor:
    """Maps to maps, channels last."""
    norm, pool = layer.norm, layer.pool
    from_batch = norm is not None and norm.training
    maps, moments = convolve(layer.conv, maps, with_moments=from_batch)
    result: Tensor
    if norm is None:
        result = _BiasPool.apply(maps, layer.conv.bias, pool)
        return result
    if moments:
        update_running_stats(norm, *moments, maps.numel() // maps.shape[1])
    used = Moments(*(moments or _running_stats(norm)), norm.eps, from_batch)
    result = _NormPool.apply(maps, norm.weight, norm.bias, used, pool)
    return result


def convolve(
    conv: nn.Conv2d, maps: Tensor, *, with_moments: bool
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Maps convolved without the bias; with moments also mean and variance by channel."""
    if maps.dtype == torch.float32 and _winograd_pays(conv, *maps.shape[2:]):
        if not with_moments:
            return _Winograd.apply(maps, conv.weight, _padding(conv), False), None
        maps, mean, variance = _Winograd.apply(maps, conv.weight, _padding(conv), True)
        return maps, (mean, variance)
    maps = F.conv2d(maps, conv.weight, padding=conv.padding)
    maps = maps.contiguous(memory_format=torch.channels_last)
    return maps, ops.map_moments(maps.detach()) if with_moments else None


def _winograd_pays(conv: nn.Conv2d, rows: int, columns: int) -> bool:
    """Whether minimal filtering of such maps saves more than it costs (`docs/experiments.md`).

    Decided for float32 only: beside products in bfloat16 it has not been tried.
    """
    if conv.kernel_size != (3, 3) or conv.in_channels * conv.out_channels < 256:
        return False
    around = sum(_padding(conv)) - 2
    rows, columns = rows + around, columns + around
    tiles = -(-rows // WINOGRAD_TILE) * -(-columns // WINOGRAD_TILE)
    return 9 * rows * columns >= 2.25 * POINTS * tiles  # products by the definition and by tiles


def _padding(conv: nn.Conv2d) -> tuple[int, int]:
    """Rows and columns of zeros before a map and after it."""
    zeros = conv.kernel_size[0] - 1 if conv.padding == "same" else 0
    return zeros // 2, zeros - zeros // 2


def _stem_moments(
    norm: nn.BatchNorm2d, weight: Tensor, pixels: Tensor, stem: Stem
) -> tuple[Tensor, Tensor]:
    """Mean and variance of the first convolution by channel, `(C,)`: the batch's in training."""
    if not norm.training:
        return _running_stats(norm)
    average, covariance = (moment.float() for moment in ops.pixel_moments(pixels, stem))
    with torch.autocast("cpu", enabled=False):
        mean, variance = weight @ average, (weight @ covariance * weight).sum(1)
    update_running_stats(norm, mean, variance, len(pixels) * math.prod(stem.positions))
    return mean, variance


def _running_stats(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


@torch.no_grad()
def update_running_stats(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Move the running mean and variance towards a batch's, of `count` values a channel."""
    running_mean, running_var = _running_stats(norm)
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    norm.num_batches_tracked += 1
    running_mean.lerp_(mean.float(), norm.momentum)
    running_var.lerp_((variance * (count / (count - 1))).float(), norm.momentum)


class _Stem(torch.autograd.Function):
    """The first layer: pixels `(N, I, H, W)`, weight `(C, I·k²)` and bias `(C,)` to maps."""

    @staticmethod
    def forward(
        ctx: Any, pixels: Tensor, weight: Tensor, bias: Tensor, stem: Stem, dtype: torch.dtype
    ) -> Tensor:
        result, argmax = ops.stem_forward(pixels, stem, weight, bias, dtype)
        ctx.stem = stem
        ctx.save_for_backward(pixels, argmax)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pixels, argmax = ctx.saved_tensors
        grad_weight, grad_bias = ops.stem_backward(pixels, ctx.stem, grad, argmax)
        return None, grad_weight, grad_bias, None, None


class _Winograd(torch.autograd.Function):
    """A convolution of maps with weights `(O, C, 3, 3)` by minimal filtering.

    with_moments: whether to return its mean and variance, too, which have no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, weight: Tensor, padding: tuple[int, int], with_moments: bool
    ) -> Tensor | tuple[Tensor, ...]:
        ctx.padding = padding
        ctx.save_for_backward(maps, weight)
        if not with_moments:
            return ops.winograd(maps, weight, padding)
        outputs = ops.winograd_moments(maps, weight, padding)
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight = ctx.saved_tensors
        before, after = ctx.padding
        grad = grad.contiguous(memory_format=torch.channels_last)
        flipped = weight.transpose(0, 1).flip(2, 3)
        grad_maps = ops.winograd(grad, flipped, (2 - before, 2 - after))
        return grad_maps, ops.winograd_weights(maps, grad, ctx.padding), None, None


class _BiasPool(torch.autograd.Function):
    """ReLU of pooled maps plus a bias `(C,)`."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, bias: Tensor, pool: int) -> Tensor:
        ones = torch.ones_like(bias)
        pooled = ops.pool_forward(maps, pool, ones, bias)
        ctx.pool = pool
        ctx.save_for_backward(maps, pooled.argmax, pooled.selected, ones)
        return pooled.result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        maps, argmax, selected, ones = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_bias, _ = ops.pool_backward_sums(grad, argmax, selected)
        zeros = torch.zeros_like(ones)
        grad_maps = ops.pool_backward(grad, argmax, maps, ctx.pool, (ones, zeros, zeros))
        return grad_maps, grad_bias.float(), None


class _NormPool(torch.autograd.Function):
    """Batch norm, pooling and ReLU of maps, with weight and bias, `(C,)` each.

    The gradients of the normalisation are Ioffe and Szegedy's, arXiv:1502.03167.
    """

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, moments: Moments, pool: int
    ) -> Tensor:
        mean = moments.mean.double()
        inverse_std = (moments.variance.double() + moments.eps).rsqrt()
        scale = weight * inverse_std
        pooled = ops.pool_forward(maps, pool, scale, bias - mean * scale)
        ctx.from_batch, ctx.pool = moments.from_batch, pool
        ctx.save_for_backward(maps, pooled.argmax, pooled.selected, scale, mean, inverse_std)
        return pooled.result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        maps, argmax, selected, scale, mean, inverse_std = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_bias, products = ops.pool_backward_sums(grad, argmax, selected)
        grad_weight = (products - mean * grad_bias) * inverse_std
        slope = offset = torch.zeros_like(grad_bias)
        if ctx.from_batch:
            count = maps.numel() // maps.shape[1]
            slope = -scale * inverse_std * grad_weight / count
            offset = -scale * grad_bias / count - slope * mean
        grad_maps = ops.pool_backward(grad, argmax, maps, ctx.pool, (scale, slope, offset))
        return grad_maps, grad_weight.float(), grad_bias.float(), None, None
