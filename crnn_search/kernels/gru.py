"""A GRU's recurrence over a packed batch, in C on one thread of a CPU.

Shapes: `N` rows of a packed batch, `B` sequences, `T` time steps, `D` features of an input, `H`
hidden size. Gates are in PyTorch's order: reset, update, new.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from crnn_search.kernels import native


class KernelGRU(nn.Module):
    """A GRU with methods `project` and `recur`, the recurrence computed in C.

    Has the parameters of `gru`. Where more than one thread computes, or on another device than a
    CPU, `gru` itself computes.
    """

    def __init__(self, gru: nn.GRU) -> None:
        super().__init__()
        # One dict: what replaces a parameter replaces it in both (`test_state_dict_round_trip`).
        self._parameters = gru._parameters  # noqa: SLF001
        self._plain = (gru,)  # in a tuple: registered, its parameters would be there twice

    def project(self, inputs: Tensor) -> Tensor:
        """Inputs `(N, D)` to the inputs' part of all gates, `(N, 3H)`."""
        gates: Tensor = self._plain[0].project(inputs)  # type: ignore[operator]
        return gates

    def recur(self, gates: Tensor, batch_sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Run over time. Returns all states, `(N, H)`, and each sequence's last one, `(B, H)`.

        gates: float32 `(N, 3H)`. batch_sizes: sequences that are active at each time step, int64
        `(T,)`, on the CPU.
        """
        states: Tensor
        last: Tensor
        if gates.device.type != "cpu" or torch.get_num_threads() > 1:
            states, last = self._plain[0].recur(gates, batch_sizes)  # type: ignore[operator]
        else:
            weight, bias = self.get_parameter("weight_hh_l0"), self.get_parameter("bias_hh_l0")
            states, last = _Recurrence.apply(gates, weight, bias, batch_sizes)
        return states, last


class _Recurrence(torch.autograd.Function):
    """All time steps: gates `(N, 3H)`, weight `(3H, H)`, bias `(3H,)` and batch sizes `(T,)`."""

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, weight: Tensor, bias: Tensor, batch_sizes: Tensor
    ) -> tuple[Tensor, Tensor]:
        weight = weight.contiguous()
        states, last, saved = gru_forward(gates.contiguous(), weight, bias, batch_sizes)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(batch_sizes, weight, *saved)
        return states, last

    @staticmethod
    def backward(
        ctx: Any, grad_states: Tensor | None, grad_last: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        batch_sizes, weight, before, *saved = ctx.saved_tensors
        grad_gates, grad_hidden, grad_bias = gru_backward(
            grad_states, grad_last, weight, (before, *saved), batch_sizes
        )
        return grad_gates, grad_hidden.t() @ before, grad_bias, None


def gru_forward(
    gates: Tensor, weight: Tensor, bias: Tensor, batch_sizes: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """States, `(N, H)`, the last of each sequence, `(B, H)`, and what `gru_backward` needs.

    gates: the inputs' part, `(N, 3H)`. weight: `(3H, H)`. bias: `(3H,)`. batch_sizes: int64 `(T,)`.

    Raises:
        ValueError: the batch sizes increase, or their sum is not `N`.
    """
    sizes = batch_sizes.tolist()
    if (
        not sizes
        or sizes != sorted(sizes, reverse=True)
        or sizes[-1] < 1
        or sum(sizes) != len(gates)
    ):
        raise ValueError(
            "batch_sizes must be at least 1, must not increase and must add up to the "
            f"{len(gates)} rows of gates, received {sizes}"
        )
    rows, width = len(gates), weight.shape[1]
    hidden, sigmoids = torch.empty(rows, 3 * width), torch.empty(rows, 2 * width)
    new, states, before = torch.empty(3, rows, width)
    last = torch.empty(sizes[0], width)
    native.call(
        "gru_forward", _sizes(rows, width, batch_sizes, sizes[0]), batch_sizes=batch_sizes,
        gates=gates, weights=weight, bias=bias, hidden=hidden, sigmoids=sigmoids, new=new,
        states=states, before=before, last=last,
    )  # fmt: skip
    return states, last, (before, new, hidden, sigmoids)


def gru_backward(
    grad_states: Tensor | None,
    grad_last: Tensor | None,
    weight: Tensor,
    saved: tuple[Tensor, ...],
    batch_sizes: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the gates, `(N, 3H)`, of their hidden part, `(N, 3H)`, and of the bias, `(3H,)`.

    grad_states: `(N, H)`. grad_last: `(B, H)`. saved: what `gru_forward` returned.
    """
    before, new, hidden, sigmoids = saved
    rows, width = before.shape
    grad_gates, grad_hidden = torch.empty_like(hidden), torch.empty_like(hidden)
    grad_bias = torch.empty(3 * width)
    native.call(
        "gru_backward", _sizes(rows, width, batch_sizes, int(batch_sizes[0])),
        batch_sizes=batch_sizes, grad_states=_contiguous(grad_states),
        grad_last=_contiguous(grad_last), weights=weight, before=before, new=new, hidden=hidden,
        sigmoids=sigmoids, grad_gates=grad_gates, grad_hidden=grad_hidden, grad_bias=grad_bias,
    )  # fmt: skip
    return grad_gates, grad_hidden, grad_bias


def _sizes(rows: int, width: int, batch_sizes: Tensor, sequences: int) -> dict[str, int]:
    return {"steps": len(batch_sizes), "width": width, "rows": rows, "sequences": sequences}


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()
