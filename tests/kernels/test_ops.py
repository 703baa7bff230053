"""Convolutions in C against PyTorch's; the other kernels are tested where they are used."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crnn_search.kernels import matrices, ops

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
            maps, weight, shape[1], ops.winograd,
            lambda maps, gradient: ops.winograd_weights(maps, gradient, before), 3e-5,
        )  # fmt: skip
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(("precision", "error"), [("float32", 1e-5), ("int16", 5e-4)])
@pytest.mark.parametrize("zeros", [(0, 0), (1, 1), (0, 1)])
@pytest.mark.parametrize("side", [3, 10, 14])
def test_eight_channels_are_a_convolution(
    side: int, zeros: tuple[int, int], precision: str, error: float
) -> None:
    maps, weight = example((5, 8, 8, side, side + 1))
    check(
        maps, weight, zeros,
        lambda maps, weight, *around: ops.conv(maps, weight, zeros, precision),
        lambda maps, gradient: ops.conv_weights(maps, gradient, 3, zeros, precision)[0], error,
    )  # fmt: skip


@pytest.mark.parametrize("size", [1.0, 1e-15, 1e15])
@pytest.mark.parametrize("like", [torch.ones_like, torch.randn_like])
def test_whole_numbers_leave_no_sum_too_large(
    size: float, like: Callable[[Tensor], Tensor]
) -> None:
    """All alike is the worst case for sums, whatever their scale."""
    torch.manual_seed(0)
    maps = like(torch.empty(2, 8, 28, 28)).mul(size).contiguous(memory_format=torch.channels_last)
    weight = like(torch.empty(8, 8, 9, 9))
    expected = F.conv2d(maps.double(), weight.double())
    found = ops.conv(maps, weight, (0, 0), "int16")
    assert float((found - expected).abs().max()) <= 1e-3 * float(expected.abs().max())
    gradient = like(expected.float()).contiguous(memory_format=torch.channels_last)
    exact = torch.ops.aten.convolution_backward(
        gradient.double(), maps.double(), weight.double(), None, [1, 1], [0, 0], [1, 1], False,
        [0, 0], 1, [False, True, False],
    )[1]  # fmt: skip
    found = ops.conv_weights(maps, gradient, 9, (0, 0), "int16")[0]
    assert float((found - exact).abs().max()) <= 2e-3 * float(exact.abs().max())

    left, right = maps.flatten(1), like(torch.empty(3, 8 * 28 * 28))
    assert_product(left, right, torch.zeros(3), 5e-4)


def assert_product(left: Tensor, right: Tensor, bias: Tensor, error: float) -> None:
    """That whole numbers give it but for rounding, relative to the norms of its rows."""
    expected = left.double() @ right.double().t() + bias.double()
    norms = left.double().norm(dim=1)[:, None] * right.double().norm(dim=1)
    found = matrices.product(left, right, bias)
    assert ((found - expected).abs() <= error * norms + 1e-6 * bias.abs() + 1e-37).all()


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 500)),
    st.tuples(st.booleans(), st.booleans()),
    st.sampled_from([1, 2]),
)
def test_whole_numbers_multiply_matrices(
    shape: tuple[int, int, int], turned: tuple[bool, bool], threads: int
) -> None:
    rows, columns, depth = shape
    generator = torch.Generator().manual_seed(sum(shape))
    sides = [torch.randn(count, depth, generator=generator) for count in (rows, columns)]
    sides[0] *= torch.logspace(-10, 10, rows)[:, None]  # each row has a scale of its own
    left, right = (
        side.t().contiguous().t() if turn else side
        for side, turn in zip(sides, turned, strict=True)
    )
    torch.set_num_threads(threads)
    try:
        assert_product(left, right, torch.randn(columns, generator=generator), 2e-4)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("turned", [False, True])
def test_whole_numbers_of_what_is_none_are_none(bad: float, turned: bool) -> None:
    left, right = torch.randn(5, 900), torch.randn(17, 900)
    left[2, 3] = bad
    if turned:
        left = left.t().contiguous().t()
    found = matrices.product(left, right)
    assert found[2].isnan().all()
    assert found[[0, 1, 3, 4]].isfinite().all()
    assert matrices.product(right, left)[:, 2].isnan().all()
    maps, weight = example((2, 8, 8, 6, 6))
    maps[1, 3, 1, 1] = bad
    found = ops.conv(maps, weight, (1, 1), "int16")
    assert found[1].isnan().all()
    assert found[0].isfinite().all()
    assert ops.conv_weights(maps, found.nan_to_num(), 3, (1, 1), "int16")[0].isnan().all()


def test_minimal_filtering_keeps_bfloat16() -> None:
    maps, weight = example((4, 16, 24, 9, 9))
    rough = maps.bfloat16()
    found = ops.winograd(rough, weight, 1, 1)
    assert found.dtype == torch.bfloat16
    expected = F.conv2d(rough.double(), weight.double(), padding=1)
    assert float((found - expected).abs().max()) <= 5e-3 * float(expected.abs().max())


def test_a_map_that_is_not_a_number_has_no_result_that_is_one() -> None:
    maps, weight = example((1, 8, 8, 4, 4))
    maps[0, 3, 1, 1] = torch.nan
    assert ops.winograd(maps, weight, 1, 1).isnan().all()
