"""What the encoder's layers compute, in C on a CPU.

PyTorch has a kernel each for convolution, normalisation, pooling and ReLU, and each reads and
writes the largest tensors of a network. Here they are one (decision 0012).

Shapes: `N` images, `I` channels of an image, `C` channels, `k` kernel, `p` pooling. Maps are
`(N, C, H, W)`, channels last, bfloat16 or float32. A pooled map has an argmax of the same shape,
uint8: for each value the position of the maximum in its window, or 255 where ReLU set it to zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from crnn_search.kernels import native
from crnn_search.kernels.signatures import POINTS, positions, round_up


class Stem(NamedTuple):
    """The first layer.

    inputs, rows, columns: of an image. pool, kernel, channels: of the layer. before, after: rows
    and columns of padding at each side.
    """

    inputs: int
    rows: int
    columns: int
    pool: int
    kernel: int
    channels: int
    before: int
    after: int

    @property
    def positions(self) -> tuple[int, int]:
        """Positions of the kernel down an image, and across it."""
        layer = self._asdict()
        return positions(self.rows, layer), positions(self.columns, layer)

    @property
    def taps(self) -> int:
        """Weights of a channel, `I·k²`."""
        return self.inputs * self.kernel**2


class Pooled(NamedTuple):
    """A pooled map, its argmax, and the values of the map at argmax before scale and shift."""

    result: Tensor
    argmax: Tensor
    selected: Tensor


def stem_forward(
    pixels: Tensor, stem: Stem, weight: Tensor, bias: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """A convolution of images, pooled, and its ReLU: the map, of `dtype`, and its argmax.

    pixels: `(N, I, H, W)`, uint8 or float32. weight: `(C, I·k²)`. bias: `(C,)`.
    """
    count, (rows, columns) = len(pixels), stem.positions
    shape = count, stem.channels, rows // stem.pool, columns // stem.pool
    result, argmax = _empty_maps(shape, dtype), _empty_maps(shape, torch.uint8)
    weights, padded_bias = native.padded(weight.t()), native.padded(bias)

    def part(images: slice) -> None:
        native.call(
            "stem_forward", _sizes(images, stem), pixels=pixels[images], weights=weights,
            bias=padded_bias, result=result[images], argmax=argmax[images],
        )  # fmt: skip

    native.in_parts(count, part)
    return result, argmax


def stem_backward(
    pixels: Tensor, stem: Stem, grad: Tensor, argmax: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of weight, `(C, I·k²)`, and bias, `(C,)`, from that of the pooled map."""
    grad = grad.contiguous(memory_format=torch.channels_last)
    taps = stem.taps

    def part(images: slice) -> Tensor:
        sums = torch.zeros(taps + 1, round_up(stem.channels))
        native.call(
            "stem_backward", _sizes(images, stem), pixels=pixels[images], grad=grad[images],
            argmax=argmax[images], grad_weights=sums[:taps], grad_bias=sums[taps],
        )  # fmt: skip
        return sums

    sums = _total(native.in_parts(len(pixels), part))[:, : stem.channels]
    return sums[:taps].t(), sums[taps]


def pixel_moments(pixels: Tensor, stem: Stem) -> tuple[Tensor, Tensor]:
    """Mean, `(I·k²,)`, and covariance, square, of the pixels under a kernel; float64."""
    taps = stem.taps
    shift = (
        pixels[0, :, 0, 0].float().contiguous()
    )  # of bright images near the mean, of digits zero

    def part(images: slice) -> Tensor:
        sums = torch.zeros(taps + 1, taps, dtype=torch.float64)
        native.call(
            "pixel_moments", _sizes(images, stem), pixels=pixels[images], shift=shift,
            sums=sums[0], products=sums[1:],
        )  # fmt: skip
        return sums

    moments = _total(native.in_parts(len(pixels), part)) / (len(pixels) * math.prod(stem.positions))
    mean, products = moments[0], moments[1:]
    row = torch.arange(taps) // stem.kernel % stem.kernel
    products = torch.where(row[:, None] <= row, products, products.t())
    return mean + shift.repeat_interleave(stem.kernel**2), products - mean.outer(mean)


def map_moments(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance by channel, `(C,)` each; float64."""

    def part(images: slice) -> Tensor:
        sums = torch.zeros(2, maps.shape[1], dtype=torch.float64)
        native.call(
            "map_moments", _map_sizes(images, maps), maps=maps[images], sums=sums[0],
            squares=sums[1],
        )  # fmt: skip
        return sums

    return _mean_and_variance(native.in_parts(len(maps), part), maps)


def pool_forward(maps: Tensor, pool: int, scale: Tensor, shift: Tensor) -> Pooled:
    """ReLU of the maximum of each `p × p` window of the maps times scale, `(C,)`, plus shift."""
    count, channels, rows, columns = maps.shape
    shape = count, channels, rows // pool, columns // pool
    result, selected = _empty_maps(shape, maps.dtype), _empty_maps(shape, maps.dtype)
    argmax = _empty_maps(shape, torch.uint8)
    padded_scale, padded_shift = native.padded(scale), native.padded(shift)

    def part(images: slice) -> None:
        native.call(
            "pool_forward", _map_sizes(images, maps, pool), maps=maps[images], scale=padded_scale,
            shift=padded_shift, result=result[images], argmax=argmax[images],
            selected=selected[images],
        )  # fmt: skip

    native.in_parts(count, part)
    return Pooled(result, argmax, selected)


def pool_backward_sums(grad: Tensor, argmax: Tensor, selected: Tensor) -> tuple[Tensor, Tensor]:
    """Sums by channel, `(C,)`, float64: of gradients that ReLU let pass, and times `selected`."""

    def part(images: slice) -> Tensor:
        sums = torch.zeros(2, grad.shape[1], dtype=torch.float64)
        native.call(
            "pool_backward_sums", _map_sizes(images, grad), grad=grad[images],
            argmax=argmax[images], selected=selected[images], sums=sums[0], products=sums[1],
        )  # fmt: skip
        return sums

    sums, products = _total(native.in_parts(len(grad), part))
    return sums, products


def pool_backward(
    grad: Tensor, argmax: Tensor, maps: Tensor, pool: int, by_channel: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """The maps' gradient, from that of the pooled map.

    by_channel: scale, slope and offset, `(C,)` each. The result is scale times the gradient where
    the map's value is the maximum, plus slope times that value, plus offset.
    """
    result = torch.empty_like(maps, memory_format=torch.channels_last)
    scale, slope, offset = map(native.padded, by_channel)

    def part(images: slice) -> None:
        native.call(
            "pool_backward", _map_sizes(images, maps, pool), grad=grad[images],
            argmax=argmax[images], maps=maps[images], scale=scale, slope=slope, offset=offset,
            grad_maps=result[images],
        )  # fmt: skip

    native.in_parts(len(maps), part)
    return result


def winograd(maps: Tensor, weight: Tensor, padding: tuple[int, int]) -> Tensor:
    """Float32 maps cross-correlated with weights `(O, C, 3, 3)`.

    By minimal filtering (Lavin and Gray, arXiv:1509.09308): see winograd.c. padding: rows and
    columns of zeros before and after the maps.
    """
    return _winograd(maps, weight, padding, with_moments=False)[0]


def winograd_moments(
    maps: Tensor, weight: Tensor, padding: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """As `winograd`, and the result's mean and variance by channel, `(O,)` each, in float64."""
    result, sums = _winograd(maps, weight, padding, with_moments=True)
    return result, *_mean_and_variance(sums, result)


def _winograd(
    maps: Tensor, weight: Tensor, padding: tuple[int, int], *, with_moments: bool
) -> tuple[Tensor, list[Tensor]]:
    count, _, rows, columns = maps.shape
    outputs, around = len(weight), sum(padding) - 2
    result = _empty_maps((count, outputs, rows + around, columns + around), torch.float32)
    by_tap = weight.detach().double().permute(2, 3, 1, 0).reshape(9, -1)
    by_point = native.padded((_TO_POINTS @ by_tap).view(POINTS, -1, outputs))

    def part(images: slice) -> Tensor:
        sums = torch.zeros(2, outputs, dtype=torch.float64)
        native.call(
            "winograd", _conv_sizes(images, maps, padding, outputs), maps=maps[images],
            weights=by_point, result=result[images], sums=sums[0] if with_moments else None,
            squares=sums[1] if with_moments else None,
        )  # fmt: skip
        return sums

    return result, native.in_parts(count, part)


def winograd_weights(maps: Tensor, grad: Tensor, padding: tuple[int, int]) -> Tensor:
    """The gradient of the weights of `winograd`, `(O, C, 3, 3)`, from that of its result."""
    channels, outputs = maps.shape[1], grad.shape[1]

    def part(images: slice) -> Tensor:
        sums = torch.zeros(POINTS, channels, round_up(outputs))
        native.call(
            "winograd_weights", _conv_sizes(images, maps, padding, outputs), maps=maps[images],
            grad=grad[images], grad_weights=sums,
        )  # fmt: skip
        return sums

    sums = _total(native.in_parts(len(maps), part))[..., :outputs]
    by_tap = _TO_POINTS.t() @ sums.double().flatten(1)
    return by_tap.view(3, 3, channels, outputs).permute(3, 2, 0, 1).float()


def _total(parts: Sequence[Tensor]) -> Tensor:
    return sum(parts[1:], parts[0])


def _mean_and_variance(sums: Sequence[Tensor], maps: Tensor) -> tuple[Tensor, Tensor]:
    """By channel, from the parts' sums of values and of squares, `(2, C)`."""
    count = maps.shape[0] * maps.shape[2] * maps.shape[3]
    mean, square = _total(sums) / count
    return mean, (square - mean * mean).clamp_min(0)


def _empty_maps(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)


def _sizes(images: slice, stem: Stem) -> dict[str, int]:
    return {"images": images.stop - images.start, **stem._asdict()}


def _map_sizes(images: slice, maps: Tensor, pool: int = 1) -> dict[str, int]:
    _, channels, rows, columns = maps.shape
    count = images.stop - images.start
    return {"images": count, "pool": pool, "rows": rows, "columns": columns, "channels": channels}


def _conv_sizes(
    images: slice, maps: Tensor, padding: tuple[int, int], outputs: int
) -> dict[str, int]:
    before, after = padding
    return {**_map_sizes(images, maps), "before": before, "after": after, "outputs": outputs}


_BY_SIDE = torch.tensor(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    dtype=torch.float64,
)
_TO_POINTS = torch.kron(_BY_SIDE, _BY_SIDE)
"""Takes the taps of a kernel to the points of winograd.c: `(36, 9)`."""
