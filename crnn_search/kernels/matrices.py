"""Products in whole numbers, a GRU's steps and an optimizer's, in C on a CPU.

Shapes: `M`, `N` rows, `D` columns, `H` width of a GRU, `B` sequences, `T` time steps.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from crnn_search.kernels import native


class Rule(ctypes.Structure):
    """`Rule` of optimizer.c; without first_bias it is RMSprop's, else Adam's."""

    _fields_ = tuple(
        (name, ctypes.c_float)
        for name in (
            "rate", "decay", "first", "second", "epsilon", "clip", "first_bias", "second_bias",
        )
    )  # fmt: skip


class _Parameter(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("values", "gradients", "first", "second")),
        ("count", ctypes.c_long),
    )


def turn_rows(rows: Tensor, outer: int) -> Tensor:
    """Rows `(N, D)`, each seen as `(outer, D / outer)` and turned: `(N, D)` again, contiguous."""
    result = torch.empty(rows.shape)
    inner = rows.shape[1] // outer
    native.call("turn_rows", slice(0, len(rows)), outer, inner, rows.detach().contiguous(), result)
    return result


def product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """`(M, D)` times `(N, D)` turned, plus a bias `(N,)`, in whole numbers: see int16_product.c.

    Either side may be a turned view of a tensor.
    """
    (rows, depth), columns = left.shape, len(right)
    result = torch.empty(rows, columns)
    bias = torch.zeros(columns) if bias is None else bias.detach()
    lines = _lines(right)

    def part(some: slice) -> None:
        count = some.stop - some.start
        need = native.library().int16_product_scratch(ctypes.c_long(count), columns, depth)
        native.call(
            "int16_product", some, columns, depth, *_lines(left[some]), *lines, bias,
            result[some], torch.empty(need),
        )  # fmt: skip

    native.in_parts(rows, part)
    return result


def gru_forward(
    gates: Tensor, weight: Tensor, bias: Tensor, alive: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """States, `(N, H)`, the last of each sequence, `(B, H)`, and what `gru_backward` needs.

    gates: `(N, 3H)`. weight: `(3H, H)`. bias: `(3H,)`. alive: int64 `(T,)`. All contiguous.
    """
    rows, width = len(gates), weight.shape[1]
    hidden, sigmoids = torch.empty(rows, 3 * width), torch.empty(rows, 2 * width)
    new, states, before = torch.empty(3, rows, width)
    last = torch.empty(int(alive[0]), width)
    native.call(
        "gru_forward", slice(0, len(alive)), alive, width, gates, weight, bias, hidden, sigmoids,
        new, states, before, last, torch.empty(native.filled(3 * width) * (width + 1)),
    )  # fmt: skip
    return states, last, (before, new, hidden, sigmoids)


def gru_backward(
    of_states: Tensor | None,
    of_last: Tensor | None,
    weight: Tensor,
    saved: tuple[Tensor, ...],
    alive: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of gates, `(N, 3H)`, of their hidden part, `(N, 3H)`, and of the bias, `(3H,)`.

    of_states: `(N, H)`. of_last: `(B, H)`. saved: what `gru_forward` gave.
    """
    hidden, width = saved[2], weight.shape[1]
    of_gates, of_hidden = torch.empty_like(hidden), torch.empty_like(hidden)
    of_bias = torch.empty(3 * width)
    native.call(
        "gru_backward", slice(0, len(alive)), alive, width, _contiguous(of_states),
        _contiguous(of_last), weight, *saved, of_gates, of_hidden, of_bias,
        torch.empty(native.filled(width) * 3 * width + int(alive[0]) * width),
    )  # fmt: skip
    return of_gates, of_hidden, of_bias


def update(
    parameters: Sequence[Tensor], moments: Sequence[tuple[Tensor | None, Tensor]], rule: Rule
) -> None:
    """Change parameters, by their gradients, and their moments; all four alike in memory."""
    listed = (_Parameter * len(parameters))()
    for place, (parameter, (first, second)) in enumerate(zip(parameters, moments, strict=True)):
        assert parameter.grad is not None
        listed[place] = _Parameter(
            parameter.data_ptr(),
            parameter.grad.data_ptr(),
            None if first is None else first.data_ptr(),
            second.data_ptr(),
            parameter.numel(),
        )
    native.library().update(ctypes.c_long(len(parameters)), listed, rule)


def _lines(side: Tensor) -> tuple[Tensor, int, int]:
    """A matrix, how far apart its lines are, and whether those are its columns."""
    side = side.detach()
    turned = side.stride(0) == 1 and side.shape[1] > 1
    if not turned and side.stride(1) != 1:
        side = side.contiguous()
    return side, side.stride(1 if turned else 0), int(turned)


def _contiguous(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.contiguous()
