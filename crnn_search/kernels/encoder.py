"""The encoder's layers on a CPU: products by PyTorch, all between them by `kernels`.

The first layer's map never lies in memory before it is pooled, and its normalisation needs no pass
over it: a convolution is linear, so that its mean and variance follow from those of the pixels
under it (`w·m` and `wᵀCw`), and normalising is another kernel and another bias.

Shapes: `N` images, `C` channels, `D` features, `k` kernel.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crnn_search.hyperparameters import IMAGE_SIZE, ModelSpec
from crnn_search.kernels import matrices, ops
from crnn_search.kernels.native import LANES
from crnn_search.kernels.ops import Stem

Layer = tuple[nn.Conv2d, nn.BatchNorm2d | None, int]
"""Convolution, normalisation and pooling; then comes ReLU."""


INT16_OUTPUTS = 128
"""Fewer take longer in whole numbers, which must be packed first (`docs/experiments.md`)."""


def encode(
    encoder: nn.Sequential, spec: ModelSpec, pixels: Tensor, scale: float, precision: str
) -> Tensor:
    """What the encoder makes of images: `(N, D)`, as it lies in memory, pixel by pixel.

    So flat maps are no copies of them; who multiplies them orders weights `by_pixel`.

    pixels: `(N, 28, 28)`, uint8 or float32. scale: takes them to [0, 1]. precision: bfloat16, which
    maps are then kept in, int16 (see `linear`) or float32.
    """
    (first, *others), embedding = parts(encoder, spec)
    numbers = torch.bfloat16 if precision == "bfloat16" else torch.float32
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        maps = first_layer(first, pixels, scale, numbers)
        for layer in others:
            maps = inner_layer(layer, maps, precision)
        return flatten(maps, embedding, precision)


def flatten(maps: Tensor, embedding: nn.Linear | None, precision: str) -> Tensor:
    """Features `(N, D)` of maps."""
    features: Tensor = maps.permute(0, 2, 3, 1).flatten(1)
    if embedding is not None:
        weight = by_pixel(embedding.weight, maps.shape[1])
        features = F.relu(linear(features, weight, embedding.bias, precision))
    return features


def linear(features: Tensor, weight: Tensor, bias: Tensor, precision: str) -> Tensor:
    """Features `(N, D)` times weights `(O, D)`, plus a bias `(O,)`.

    precision: int16, where that is faster for so many outputs, or of the features.
    """
    if precision == "int16" and len(weight) >= INT16_OUTPUTS:
        result: Tensor = _Linear.apply(features, weight, bias)
        return result
    return F.linear(features, weight, bias)


def by_pixel(weight: Tensor, channels: int) -> Tensor:
    """Weights `(O, C·H·W)` of flat maps in the order of maps that lie pixel by pixel."""
    found: Tensor = _ByPixel.apply(weight, channels)
    return found


def parts(encoder: nn.Sequential, spec: ModelSpec) -> tuple[list[Layer], nn.Linear | None]:
    """The layers of an encoder, and its embedding, if it has one."""
    modules, layers = list(encoder), []
    for _, _, pool in spec.layers():
        conv, norm = modules.pop(0), modules.pop(0) if spec.batch_norm else None
        assert isinstance(conv, nn.Conv2d)
        assert norm is None or isinstance(norm, nn.BatchNorm2d)
        layers.append((conv, norm, pool))
        del modules[: 2 if pool > 1 else 1]  # pooling and ReLU
    return layers, next((module for module in modules if isinstance(module, nn.Linear)), None)


def first_layer(layer: Layer, pixels: Tensor, scale: float, numbers: torch.dtype) -> Tensor:
    """Images to maps, `(N, C, H, W)`, channels last; see `encode`."""
    conv, norm, pool = layer
    pixels, shape = pixels.contiguous(), _stem(conv, pool)
    kernel = conv.weight.flatten(1) * scale
    if norm is None:
        assert conv.bias is not None
        bias = conv.bias
    else:
        mean, variance = _statistics(norm, kernel, pixels, shape)
        gain = norm.weight * (variance + norm.eps).rsqrt()
        kernel, bias = kernel * gain[:, None], norm.bias - mean * gain
    result: Tensor = _Stem.apply(pixels, kernel, bias, shape, pool, numbers)
    return result


def inner_layer(layer: Layer, maps: Tensor, precision: str) -> Tensor:
    """Maps to maps, channels last."""
    conv, norm, pool = layer
    if norm is None and pool == 1 and _of_eight(conv):
        found: Tensor = _Conv.apply(maps, conv.weight, conv.bias, _zeros(conv), precision)
        return found
    maps, *moments = _convolve(conv, maps, precision, norm is not None and norm.training)
    result: Tensor
    if norm is None:
        result = _Pool.apply(maps, None, conv.bias, None, None, 0.0, False, pool)
        return result
    mean, variance = moments or (norm.running_mean, norm.running_var)
    assert mean is not None
    assert variance is not None
    if norm.training:
        with torch.no_grad():
            _remember(norm, mean, variance, maps.numel() // maps.shape[1])
    result = _Pool.apply(
        maps, norm.weight, norm.bias, mean, variance, norm.eps, norm.training, pool
    )
    return result


def _convolve(conv: nn.Conv2d, maps: Tensor, precision: str, moments: bool) -> list[Tensor]:
    """Without the bias; by PyTorch, but for eight channels and where filtering saves enough.

    moments: whether mean and variance by channel are wanted, too.
    """
    if maps.dtype == torch.float32 and _filters(conv, maps.shape[2]):
        found = _Winograd.apply(maps, conv.weight, *_zeros(conv), moments)
        return list(found) if moments else [found]
    if _of_eight(conv):
        maps = _Conv.apply(maps, conv.weight, None, _zeros(conv), precision)
    else:
        maps = F.conv2d(maps, conv.weight, padding=conv.padding)
        maps = maps.contiguous(memory_format=torch.channels_last)
    return [maps, *ops.map_moments(maps.detach())] if moments else [maps]


def _of_eight(conv: nn.Conv2d) -> bool:
    """Whether the plain kernel is for it."""
    return conv.in_channels == conv.out_channels == LANES


def _filters(conv: nn.Conv2d, side: int) -> bool:
    """Whether minimal filtering gains more than its transforms cost (`docs/experiments.md`).

    Asked for float32 alone: beside products in bfloat16 it has not been tried.
    """
    if conv.kernel_size != (3, 3) or conv.in_channels * conv.out_channels < 256:
        return False
    side += sum(_zeros(conv)) - 2
    tiles = -(-side // ops.TILE)
    return 9 * side**2 >= 2.25 * ops.POINTS * tiles**2  # products saved: twice or more


def _zeros(conv: nn.Conv2d) -> tuple[int, int]:
    """Rows and columns of zeros before a map and after it."""
    zeros = conv.kernel_size[0] - 1 if conv.padding == "same" else 0
    return zeros // 2, zeros - zeros // 2


def _stem(conv: nn.Conv2d, pool: int) -> Stem:
    (kernel, _), (before, after) = conv.kernel_size, _zeros(conv)
    width = IMAGE_SIZE + before + after
    return Stem(kernel, (width - kernel + 1) // pool, conv.out_channels, before, width)


def _statistics(
    norm: nn.BatchNorm2d, kernel: Tensor, pixels: Tensor, shape: Stem
) -> tuple[Tensor, Tensor]:
    """Mean and variance of the convolution by channel, `(C,)`; the running ones in evaluation."""
    if not norm.training:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        return norm.running_mean, norm.running_var
    average, covariance = (moment.float() for moment in ops.pixel_moments(pixels, shape))
    with torch.autocast("cpu", enabled=False):
        mean, variance = kernel @ average, (kernel @ covariance * kernel).sum(1)
    with torch.no_grad():
        _remember(norm, mean, variance, len(pixels) * (shape.width - shape.kernel + 1) ** 2)
    return mean, variance


def _remember(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Move the running figures towards a batch's, of `count` numbers a channel."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean.float(), norm.momentum)
    norm.running_var.lerp_((variance * (count / (count - 1))).float(), norm.momentum)


class _Stem(torch.autograd.Function):
    """The first layer: of pixels `(N, 28, 28)`, a kernel `(C, k²)` and a bias `(C,)`."""

    @staticmethod
    def forward(
        ctx: Any,
        pixels: Tensor,
        kernel: Tensor,
        bias: Tensor,
        shape: Stem,
        pool: int,
        numbers: torch.dtype,
    ) -> Tensor:
        result, choice = ops.stem_forward(pixels, shape, pool, kernel, bias, numbers)
        ctx.shape, ctx.pool = shape, pool
        ctx.save_for_backward(pixels, choice)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        pixels, choice = ctx.saved_tensors
        of_kernel, of_bias = ops.stem_backward(pixels, ctx.shape, ctx.pool, gradient, choice)
        return None, of_kernel, of_bias, None, None, None


class _Conv(torch.autograd.Function):
    """A convolution of maps with weights `(8, 8, k, k)`; with a bias `(8,)`, then ReLU, if any."""

    @staticmethod
    def forward(
        ctx: Any,
        maps: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        zeros: tuple[int, int],
        precision: str,
    ) -> Tensor:
        result = ops.conv(maps, weight, zeros, precision, bias=bias)
        ctx.how = zeros, precision
        ctx.save_for_backward(maps, weight, None if bias is None else result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight, mask = ctx.saved_tensors
        ((before, after), precision), kernel = ctx.how, weight.shape[2]
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        turned = weight.transpose(0, 1).flip(2, 3)
        around = kernel - 1 - before, kernel - 1 - after
        of_maps = ops.conv(gradient, turned, around, precision, mask=mask)
        of_weight, of_bias = ops.conv_weights(
            maps, gradient, kernel, (before, after), precision, mask=mask
        )
        return of_maps, of_weight, None if mask is None else of_bias, None, None


class _Winograd(torch.autograd.Function):
    """A convolution of maps with weights `(O, C, 3, 3)` by minimal filtering.

    moments: whether to return its mean and variance, too, which have no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, weight: Tensor, before: int, after: int, moments: bool
    ) -> Tensor | tuple[Tensor, ...]:
        ctx.zeros = before, after
        ctx.save_for_backward(maps, weight)
        if not moments:
            return ops.winograd(maps, weight, before, after)
        found = ops.winograd_moments(maps, weight, before, after)
        ctx.mark_non_differentiable(*found[1:])
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight = ctx.saved_tensors
        before, after = ctx.zeros
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        turned = weight.transpose(0, 1).flip(2, 3)
        of_maps = ops.winograd(gradient, turned, 2 - before, 2 - after)
        return of_maps, ops.winograd_weights(maps, gradient, before), None, None, None


class _Pool(torch.autograd.Function):
    """Normalising (without a weight only the bias is added), pooling and ReLU of a map.

    mean, variance: to normalise by. from_batch: whether they are the map's own, so that they have
    gradients; those are Ioffe and Szegedy's, arXiv:1502.03167.
    """

    @staticmethod
    def forward(
        ctx: Any,
        maps: Tensor,
        weight: Tensor | None,
        bias: Tensor,
        mean: Tensor | None,
        variance: Tensor | None,
        eps: float,
        from_batch: bool,
        pool: int,
    ) -> Tensor:
        if weight is None or mean is None or variance is None:
            mean, scale = torch.zeros_like(bias), torch.ones_like(bias)
            gain = scale
        else:
            mean, scale = mean.double(), (variance.double() + eps).rsqrt()
            gain = weight * scale
        result, choice, chosen = ops.pool_forward(maps, pool, gain, bias - mean * gain)
        ctx.normalised, ctx.from_batch, ctx.pool = weight is not None, from_batch, pool
        ctx.save_for_backward(maps, choice, chosen, gain, mean, scale)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        maps, choice, chosen, gain, mean, scale = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_bias, products = ops.pool_backward_sums(gradient, choice, chosen)
        of_weight = (products - mean * of_bias) * scale
        slope = offset = torch.zeros_like(of_bias)
        if ctx.from_batch:
            count = maps.numel() // maps.shape[1]
            slope = -gain * scale * of_weight / count
            offset = -gain * of_bias / count - slope * mean
        of_maps = ops.pool_backward(gradient, choice, maps, ctx.pool, gain, slope, offset)
        found = of_weight.float() if ctx.normalised else None
        return of_maps, found, of_bias.float(), *(None,) * 5


class _ByPixel(torch.autograd.Function):
    """What PyTorch says as `unflatten`, `transpose` and `flatten`, in two thirds of the time."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, channels: int) -> Tensor:
        ctx.pixels = weight.shape[1] // channels
        return matrices.turn_rows(weight, channels)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return matrices.turn_rows(gradient, ctx.pixels), None


class _Linear(torch.autograd.Function):
    """A product in whole numbers of 16 bits: of features `(N, D)` and weights `(O, D)`."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(features, weight)
        return matrices.product(features, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        features, weight = ctx.saved_tensors
        of_features = None
        if ctx.needs_input_grad[0]:
            of_features = matrices.product(gradient, weight.t())
        return of_features, matrices.product(gradient.t(), features.t()), gradient.sum(0)
