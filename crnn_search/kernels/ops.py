"""What the layers of an encoder do, in C on a CPU.

PyTorch has a kernel for each of convolution, normalisation, pooling and ReLU, and each reads and
writes the largest tensors of a network. Here they are one (decision 0012).

Shapes: `N` images, `C` channels, `k` kernel, `p` pooling. Maps are `(N, C, H, W)`, channels last,
bfloat16 or float32; a pooled map has beside each number its choice, uint8, of the same shape.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from crnn_search.kernels import native
from crnn_search.kernels.native import LANES

TILE, POINTS = 4, 36
"""Of winograd.c: the side of a tile of results, and the products of numbers that one takes."""


class Stem(ctypes.Structure):
    """`Shape` of first_layer.c.

    side: of the pooled map. before: zeros before an image's first pixel. width: an image's size
    with the zeros around it.
    """

    _fields_ = tuple(
        (name, ctypes.c_int) for name in ("kernel", "side", "channels", "before", "width")
    )
    kernel: int
    side: int
    channels: int
    before: int
    width: int


class _Map(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int) for name in ("rows", "columns", "channels"))


class _Conv(ctypes.Structure):
    """`Conv` of winograd.c: the map that is read, zeros before it, and the result."""

    _fields_ = tuple(
        (name, ctypes.c_int)
        for name in ("rows", "columns", "channels", "before", "high", "across", "outputs")
    )


def stem_forward(
    pixels: Tensor, shape: Stem, pool: int, kernel: Tensor, bias: Tensor, numbers: torch.dtype
) -> tuple[Tensor, Tensor]:
    """A convolution of one channel, pooled, and its ReLU; and the choices.

    pixels: `(N, 28, 28)`, uint8 or float32. kernel: `(C, k²)`. bias: `(C,)`. numbers: of the map.
    """
    count = len(pixels)
    result, choice = _pooled(count, shape.channels, shape.side, shape.side, numbers)
    weights, shift = native.by_lane(kernel.t()), native.by_lane(bias)

    def part(rows: slice) -> None:
        native.call(
            "stem_forward", rows, pool, pixels[rows], shape, weights, shift, result[rows],
            choice[rows],
        )  # fmt: skip

    native.in_parts(count, part)
    return result, choice


def stem_backward(
    pixels: Tensor, shape: Stem, pool: int, gradient: Tensor, choice: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of kernel, `(C, k²)`, and bias, `(C,)`; of those of the pooled map."""
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    lanes = native.filled(shape.channels)
    taps = shape.kernel**2

    def part(rows: slice) -> Tensor:
        sums, scratch = torch.zeros(taps + 1, lanes), torch.empty(taps + 1, lanes)
        native.call(
            "stem_backward", rows, pool, pixels[rows], shape, gradient[rows], choice[rows],
            sums[:taps], sums[taps], scratch,
        )  # fmt: skip
        return sums

    found = sum(native.in_parts(len(pixels), part), torch.zeros(()))[:, : shape.channels]
    return found[:taps].t(), found[taps]


def pixel_moments(pixels: Tensor, shape: Stem) -> tuple[Tensor, Tensor]:
    """Mean, `(k²,)`, and covariance, `(k², k²)`, of the pixels under a kernel; float64."""
    taps = shape.kernel**2

    def part(rows: slice) -> Tensor:
        sums = torch.zeros(taps + 1, taps, dtype=torch.float64)
        scratch = torch.empty(taps + 1, taps, LANES)
        native.call(
            "pixel_moments", rows, pixels[rows], shape.kernel, shape.before, shape.width,
            sums[0], sums[1:], scratch,
        )  # fmt: skip
        return sums

    places = (shape.width - shape.kernel + 1) ** 2
    moments = sum(native.in_parts(len(pixels), part), torch.zeros(())) / (len(pixels) * places)
    mean, upper = moments[0], moments[1:].triu()
    return mean, upper + upper.triu(1).t() - mean.outer(mean)


def map_moments(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance by channel, `(C,)` each; float64."""

    def part(rows: slice) -> Tensor:
        sums = torch.zeros(2, maps.shape[1], dtype=torch.float64)
        native.call("map_moments", rows, maps[rows], _map(maps), sums[0], sums[1])
        return sums

    return _mean_and_variance(native.in_parts(len(maps), part), maps)


def pool_forward(
    maps: Tensor, pool: int, gain: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """ReLU of the largest number of each window, times gain, `(C,)`, plus shift.

    Also the choices, and what was chosen, as it was in the map.
    """
    count, channels, rows, columns = maps.shape
    result, choice = _pooled(count, channels, rows // pool, columns // pool, maps.dtype)
    chosen = torch.empty_like(result)
    by_channel = native.by_lane(gain), native.by_lane(shift)

    def part(rows: slice) -> None:
        native.call(
            "pool_forward", rows, pool, maps[rows], _map(maps), *by_channel, result[rows],
            choice[rows], chosen[rows],
        )  # fmt: skip

    native.in_parts(count, part)
    return result, choice, chosen


def pool_backward_sums(gradient: Tensor, choice: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Sums by channel, `(C,)`: of gradients, and of gradients times what was chosen; float64."""
    channels = gradient.shape[1]

    def part(rows: slice) -> Tensor:
        sums = torch.zeros(2, channels, dtype=torch.float64)
        native.call(
            "pool_backward_sums", rows, gradient[rows], choice[rows], chosen[rows],
            _map(gradient), sums[0], sums[1],
        )  # fmt: skip
        return sums

    sums, products = sum(native.in_parts(len(gradient), part), torch.zeros(()))
    return sums, products


def pool_backward(
    gradient: Tensor,
    choice: Tensor,
    maps: Tensor,
    pool: int,
    gain: Tensor,
    slope: Tensor,
    offset: Tensor,
) -> Tensor:
    """The maps' gradient: gain times that of a number chosen; plus slope times it, plus offset."""
    result = torch.empty_like(maps, memory_format=torch.channels_last)
    by_channel = native.by_lane(gain), native.by_lane(slope), native.by_lane(offset)

    def part(rows: slice) -> None:
        native.call(
            "pool_backward", rows, pool, gradient[rows], choice[rows], maps[rows],
            _map(maps), *by_channel, result[rows],
        )  # fmt: skip

    native.in_parts(len(maps), part)
    return result


def conv(
    maps: Tensor,
    weight: Tensor,
    zeros: tuple[int, int],
    precision: str,
    *,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Maps correlated with weights `(8, 8, k, k)`, zeros before and after rows and columns.

    Eight channels in and out alone: PyTorch's own is as fast for more, and for fewer.
    precision: of the products, int16 or what else is float32. mask: of the same shape as maps,
    whose zeros count as zeros of theirs. bias: `(8,)`, to add before a ReLU; none, no ReLU.
    """
    count, _, rows, columns = maps.shape
    kernel, around = weight.shape[2], sum(zeros)
    shape = (count, rows + around - kernel + 1, columns + around - kernel + 1, LANES)
    result = torch.empty(shape, dtype=maps.dtype).permute(0, 3, 1, 2)
    by_tap = weight.detach().float().permute(2, 3, 1, 0).contiguous()
    by_channel = None if bias is None else native.by_lane(bias)

    def part(images: slice) -> None:
        padded = torch.empty(LANES * (rows + around) * (columns + around))
        pairs = (torch.empty_like(by_tap),) if precision == "int16" else ()
        native.call(
            _named("conv", precision), images, maps[images], _some(mask, images), _map(maps),
            kernel, *zeros, by_tap, by_channel, result[images], padded, *pairs,
        )  # fmt: skip

    native.in_parts(count, part)
    return result


def conv_weights(
    maps: Tensor,
    gradient: Tensor,
    kernel: int,
    zeros: tuple[int, int],
    precision: str,
    *,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradients of such weights, `(8, 8, k, k)`, and bias, `(8,)`, of that of the result.

    mask: the result, if it is of a ReLU.
    """
    count, _, rows, columns = maps.shape
    around = sum(zeros)

    def part(images: slice) -> tuple[Tensor, Tensor]:
        sums, of_bias = torch.zeros(kernel, kernel, LANES, LANES), torch.zeros(LANES).double()
        padded = torch.empty(LANES * (rows + around) * (columns + around))
        own = torch.empty(LANES * gradient.shape[2] * gradient.shape[3])
        native.call(
            _named("conv_weights", precision), images, maps[images], _map(maps), gradient[images],
            _some(mask, images), kernel, *zeros, sums, of_bias, padded, own,
        )  # fmt: skip
        return sums, of_bias

    of_weight, of_bias = zip(*native.in_parts(count, part), strict=True)
    by_tap = sum(of_weight, torch.zeros(()))
    return by_tap.permute(3, 2, 0, 1), sum(of_bias, torch.zeros(())).float()


def winograd(maps: Tensor, weight: Tensor, before: int, after: int) -> Tensor:
    """Maps correlated with weights `(O, C, 3, 3)`, zeros before and after rows and columns.

    By minimal filtering (Lavin and Gray, arXiv:1509.09308), in float32: see winograd.c.
    """
    return _winograd(maps, weight, before, after, False)[0]


def winograd_moments(
    maps: Tensor, weight: Tensor, before: int, after: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The same, and mean and variance of the result by channel, `(O,)` each; float64."""
    result, sums = _winograd(maps, weight, before, after, True)
    return result, *_mean_and_variance(sums, result)


def _winograd(
    maps: Tensor, weight: Tensor, before: int, after: int, moments: bool
) -> tuple[Tensor, list[Tensor]]:
    count, _, rows, columns = maps.shape
    high, across = rows + before + after - 2, columns + before + after - 2
    shape = _Conv(rows, columns, maps.shape[1], before, high, across, len(weight))
    result = torch.empty((count, high, across, len(weight)), dtype=maps.dtype).permute(0, 3, 1, 2)
    by_tap = weight.detach().double().permute(2, 3, 1, 0).reshape(9, -1)
    by_point = native.by_lane((_TO_POINTS @ by_tap).view(POINTS, -1, len(weight)))

    def part(images: slice) -> Tensor:
        sums = torch.zeros(2, len(weight), dtype=torch.float64)
        native.call(
            "winograd", images, maps[images], shape, by_point, result[images], _scratch(shape),
            *(sums if moments else (None, None)),
        )  # fmt: skip
        return sums

    return result, native.in_parts(count, part)


def winograd_weights(maps: Tensor, gradient: Tensor, before: int) -> Tensor:
    """The gradient of such weights, `(O, C, 3, 3)`, of that of the result."""
    (count, channels, rows, columns), (_, outputs, high, across) = maps.shape, gradient.shape
    shape = _Conv(rows, columns, channels, before, high, across, outputs)

    def part(images: slice) -> Tensor:
        sums = torch.zeros(POINTS, channels, native.filled(outputs))
        native.call(
            "winograd_weights", images, maps[images], shape, gradient[images], sums,
            _scratch(shape),
        )  # fmt: skip
        return sums

    sums = sum(native.in_parts(count, part), torch.zeros(()))[..., :outputs]
    by_tap = _TO_POINTS.t() @ sums.double().flatten(1)
    return by_tap.view(3, 3, channels, outputs).permute(3, 2, 0, 1).float()


def _some(maps: Tensor | None, images: slice) -> Tensor | None:
    return None if maps is None else maps[images]


def _named(kernel: str, precision: str) -> str:
    return f"int16_{kernel}" if precision == "int16" else kernel


def _mean_and_variance(sums: Sequence[Tensor], maps: Tensor) -> tuple[Tensor, Tensor]:
    """Of maps, by channel, from sums of their numbers and of their squares, `(2, C)`."""
    count = maps.shape[0] * maps.shape[2] * maps.shape[3]
    mean, square = sum(sums, torch.zeros(())) / count
    return mean, (square - mean * mean).clamp_min(0)


def _scratch(shape: _Conv) -> Tensor:
    return torch.empty(native.library().winograd_scratch(shape))


def _pooled(
    images: int, channels: int, rows: int, columns: int, numbers: torch.dtype
) -> tuple[Tensor, Tensor]:
    shape = (images, rows, columns, channels)
    empty = torch.empty(shape, dtype=numbers), torch.empty(shape, dtype=torch.uint8)
    return empty[0].permute(0, 3, 1, 2), empty[1].permute(0, 3, 1, 2)


def _map(maps: Tensor) -> _Map:
    return _Map(maps.shape[2], maps.shape[3], maps.shape[1])


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
"""The taps of a kernel to the points of winograd.c: `(36, 9)`."""
