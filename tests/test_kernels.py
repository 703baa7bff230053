"""Convolutions in C against PyTorch's; the other kernels are tested where they are used."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crnn_search import kernels

Shape = tuple[int, int, int, int, int]


@st.composite
def shapes(draw: st.DrawFn) -> tuple[Shape, tuple[int, int]]:
    """Images, channels in and out, rows, columns; zeros before and after."""
    sizes = [(1, 20), (1, 19), (1, 19), (3, 15), (3, 15)]
    images, inputs, outputs, rows, columns = (draw(st.integers(*size)) for size in sizes)
    return (images, inputs, outputs, rows, columns), (draw(st.integers(0, 2)),) * 2


def example(shape: Shape) -> tuple[Tensor, Tensor]:
    """Maps, channels last, and weights."""
    images, inputs, outputs, rows, columns = shape
    generator = torch.Generator().manual_seed(sum(shape))
    maps = torch.randn(images, rows, columns, inputs, generator=generator).permute(0, 3, 1, 2)
    return maps, torch.randn(outputs, inputs, 3, 3, generator=generator)


def check(
    maps: Tensor,
    weight: Tensor,
    zeros: tuple[int, int],
    conv: Callable[[Tensor, Tensor, int, int], Tensor],
    conv_weights: Callable[[Tensor, Tensor], Tensor],
    error: float,
) -> None:
    """Result and gradient of the weights, in float64 and by a kernel."""
    exact = weight.double().requires_grad_()
    before, after = zeros
    expected = F.conv2d(F.pad(maps.double(), (before, after) * 2), exact)
    found = conv(maps, weight, before, after)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert float((found - expected.detach()).abs().max()) <= error * float(
        expected.detach().abs().max()
    )
    gradient = torch.linspace(-1, 1, expected.numel()).view_as(expected)
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    expected.backward(gradient)
    assert exact.grad is not None
    scale = maps.abs().max() * gradient.abs().sum((0, 2, 3)).max()
    assert float((conv_weights(maps, gradient) - exact.grad).abs().max()) <= error * float(scale)


@settings(max_examples=150, deadline=None)
@given(shapes(), st.sampled_from([1, 2]))
def test_minimal_filtering_is_a_convolution(
    shape: tuple[Shape, tuple[int, int]], threads: int
) -> None:
    maps, weight = example(shape[0])
    before, _ = shape[1]
    torch.set_num_threads(threads)
    try:
        check(
            maps, weight, shape[1], kernels.winograd,
            lambda maps, gradient: kernels.winograd_weights(maps, gradient, before), 3e-5,
        )  # fmt: skip
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("zeros", [(0, 0), (1, 1), (0, 1)])
@pytest.mark.parametrize("side", [3, 10, 14])
def test_eight_channels_are_a_convolution(side: int, zeros: tuple[int, int]) -> None:
    maps, weight = example((5, 8, 8, side, side + 1))
    check(
        maps, weight, zeros, kernels.conv,
        lambda maps, gradient: kernels.conv_weights(maps, gradient, 3, *zeros), 1e-5,
    )  # fmt: skip


def test_minimal_filtering_keeps_bfloat16() -> None:
    maps, weight = example((4, 16, 24, 9, 9))
    rough = maps.bfloat16()
    found = kernels.winograd(rough, weight, 1, 1)
    assert found.dtype == torch.bfloat16
    expected = F.conv2d(rough.double(), weight.double(), padding=1)
    assert float((found - expected).abs().max()) <= 5e-3 * float(expected.abs().max())


def test_a_map_that_is_not_a_number_has_no_result_that_is_one() -> None:
    maps, weight = example((1, 8, 8, 4, 4))
    maps[0, 3, 1, 1] = torch.nan
    assert kernels.winograd(maps, weight, 1, 1).isnan().all()
