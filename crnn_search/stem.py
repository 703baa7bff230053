"""The first convolution, normalisation, max-pooling and ReLU on a CPU, as a few matrix products.

A convolution of one channel is too thin for PyTorch's kernels, and what follows it is the largest
tensor of the network. Here an image is cut into overlapping blocks, each holding all pixels that
`S` pooling windows beside one another see, and multiplied by a matrix that holds the kernel at each
place of a window: one product for each of a window's `p²` places. The maximum of the products is
the pooled map. The full map never lies in memory as a whole, and its normalisation needs no pass
over it: a convolution is linear, so that its mean and variance follow from those of the pixels
under it (`w·m` and `wᵀCw`), and normalising is another kernel and another bias.

Shapes: `N` images, `M` blocks of all images, `K` pixels of a block, `k` kernel, `p` pooling, `C`
channels.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crnn_search.config import IMAGE_SIZE, ModelSpec

MAX_WIDTH = 11
"""Widest block, in pixels: wider ones multiply more zeros, narrower ones copy more."""

CHUNK = 32_768
"""Blocks that are multiplied at once: their products stay in a CPU's cache."""

BITS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}


@dataclass(frozen=True)
class Geometry:
    """How images are cut. kernel, pool: of the layer. side: windows along a pooled map.

    windows: of a block. before, after: zeros around an image.
    """

    kernel: int
    pool: int
    side: int
    windows: int
    before: int
    after: int

    @property
    def strides(self) -> tuple[int, int]:
        """Pixels from one block to the next, down and across."""
        return self.pool, self.windows * self.pool

    @property
    def block(self) -> tuple[int, int]:
        """A block's height and width."""
        down, across = self.strides
        return down + self.kernel - 1, across + self.kernel - 1


def geometry(spec: ModelSpec) -> Geometry | None:
    """How this network's images are cut; None if its first layer is not for `encode`.

    It is if it pools and, with batch norm, if the windows leave no row out, whose pixels would
    count in the mean and variance.
    """
    _, kernel, pool = next(iter(spec.layers()))
    padding = kernel - 1 if spec.padding == "same" else 0
    size = IMAGE_SIZE + padding - kernel + 1
    if pool == 1 or (spec.batch_norm and size % pool):
        return None
    side = size // pool
    widest = (MAX_WIDTH - kernel + 1) // pool
    fitting = [windows for windows in range(1, widest + 1) if side % windows == 0]
    return Geometry(kernel, pool, side, max(fitting, default=1), padding // 2, -(-padding // 2))


def encode(encoder: nn.Sequential, shape: Geometry, pixels: Tensor, scale: float) -> Tensor:
    """What the first layer makes of images: `(N, C, side, side)`, channels last.

    pixels: `(N, 28, 28)`, bfloat16 or float32, the type to compute in. scale: takes them to [0, 1].
    """
    conv, norm = encoder[0], encoder[1]
    assert isinstance(conv, nn.Conv2d)
    blocks = cut(pixels, shape)
    kernel = conv.weight.flatten(1) * scale
    if isinstance(norm, nn.BatchNorm2d):
        mean, variance = _statistics(norm, kernel, blocks, shape)
        gain = norm.weight * (variance + norm.eps).rsqrt()
        kernel, bias = kernel * gain[:, None], norm.bias - mean * gain
    else:
        assert conv.bias is not None
        bias = conv.bias
    matrices = (_places(shape) @ kernel.T).view(shape.pool**2, blocks.shape[1], -1)
    rows: Tensor = _PooledProduct.apply(
        blocks, matrices.to(blocks.dtype), bias.repeat(shape.windows).to(blocks.dtype)
    )
    return rows.view(len(pixels), shape.side, shape.side, -1).permute(0, 3, 1, 2)


def layers(spec: ModelSpec) -> int:
    """How many modules of the encoder `encode` stands for."""
    return 4 if spec.batch_norm else 3


def cut(pixels: Tensor, shape: Geometry) -> Tensor:
    """The overlapping blocks of images: `(M, K)`."""
    padded = F.pad(pixels, (shape.before, shape.after) * 2)
    covered = shape.side * shape.pool + shape.kernel - 1
    blocks = padded[:, :covered, :covered]
    for axis, size, stride in zip((1, 2), shape.block, shape.strides, strict=True):
        blocks = blocks.unfold(axis, size, stride)
    return blocks.reshape(-1, math.prod(shape.block))


def _statistics(
    norm: nn.BatchNorm2d, kernel: Tensor, blocks: Tensor, shape: Geometry
) -> tuple[Tensor, Tensor]:
    """Mean and variance of the convolution by channel, `(C,)`; the running ones in evaluation."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    if not norm.training:
        return norm.running_mean, norm.running_var
    count = len(blocks) * math.prod(shape.strides)
    average, covariance = _pixel_moments(blocks, shape)
    mean, variance = kernel @ average, (kernel @ covariance * kernel).sum(1)
    with torch.no_grad():
        assert norm.num_batches_tracked is not None
        assert norm.momentum is not None
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)
    return mean, variance


def _pixel_moments(blocks: Tensor, shape: Geometry) -> tuple[Tensor, Tensor]:
    """Mean `(k²,)` and covariance `(k², k²)` of the pixels under the kernel."""
    total = torch.zeros(blocks.shape[1])
    squares = torch.zeros(blocks.shape[1], blocks.shape[1])
    for chunk in blocks.split(CHUNK):
        exact = chunk.float()
        total += exact.sum(0)
        squares.addmm_(exact.T, exact)
    under = _under_the_kernel(shape)
    count = len(blocks) * len(under)
    average = total.double()[under].sum(0) / count
    second = squares.double()[under[:, :, None], under[:, None, :]].sum(0) / count
    return average.float(), (second - average.outer(average)).float()


@functools.cache
@torch.inference_mode(False)  # kept for training, whoever asks first
def _under_the_kernel(shape: Geometry) -> Tensor:
    """Which pixels of a block lie under the kernel at each of its places: `(p · S · p, k²)`."""
    taps = torch.arange(shape.kernel)
    down, across = (torch.arange(stride)[:, None] + taps for stride in shape.strides)
    pixels = down[:, None, :, None] * shape.block[1] + across[None, :, None, :]
    return pixels.flatten(2).flatten(0, 1)


@functools.cache
@torch.inference_mode(False)
def _places(shape: Geometry) -> Tensor:
    """One where a pixel of a block lies under a tap of the kernel: `(p² · K · S, k²)`."""
    pool, windows = shape.pool, shape.windows
    under = _under_the_kernel(shape).view(pool, windows, pool, -1).transpose(1, 2)
    under = under.reshape(pool**2, windows, -1)
    ones = torch.zeros(*under.shape, math.prod(shape.block))
    ones.scatter_(3, under.unsqueeze(3), 1.0)
    return ones.permute(0, 3, 1, 2).reshape(-1, shape.kernel**2)


class _PooledProduct(torch.autograd.Function):
    """ReLU of the bias plus the largest of several products: `(M, K)`, `(p², K, n)` to `(M, n)`.

    Of equal products the first has the gradient, as in PyTorch's max-pooling. Choices are kept as
    integers 0 and 1, and gradients are multiplied by them as bit patterns: an exact product with
    either, and four times as fast as one of numbers.
    """

    @staticmethod
    def forward(ctx: Any, blocks: Tensor, matrices: Tensor, bias: Tensor) -> Tensor:
        bits = BITS[blocks.dtype]
        rows, width = len(blocks), matrices.shape[2]
        result = blocks.new_empty(rows, width)
        stayed = torch.empty(len(matrices) - 1, rows, width, dtype=bits)
        for start in range(0, rows, CHUNK):
            chunk = slice(start, start + CHUNK)
            best = blocks[chunk] @ matrices[0]
            for place in range(1, len(matrices)):
                larger = torch.maximum(best, blocks[chunk] @ matrices[place])
                torch.eq(larger.view(bits), best.view(bits), out=stayed[place - 1, chunk])
                best = larger
            torch.clamp_min(best.add_(bias), 0, out=result[chunk])
        ctx.save_for_backward(blocks, result, stayed)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor]:
        blocks, result, stayed = ctx.saved_tensors
        bits = BITS[blocks.dtype]
        gradient = torch.ops.aten.threshold_backward(gradient.contiguous(), result, 0)
        bias = gradient.sum(0, dtype=torch.float32)
        left = gradient.view(bits)
        by_place = []
        for place in range(len(stayed), 0, -1):
            kept = left * stayed[place - 1]
            by_place.append(blocks.T @ left.sub_(kept).view(blocks.dtype))
            left = kept
        by_place.append(blocks.T @ left.view(blocks.dtype))
        return None, torch.stack(by_place[::-1]), bias.to(blocks.dtype)
