"""A GRU over a packed batch, in two halves, with its gradient written by hand.

PyTorch's own GRU records some twenty small operations for each time step and, on CUDA, reads
lengths from the host, which a CUDA graph cannot capture. Here a time step is only what depends on
the step before; everything else is computed once for all steps.

Shapes: `N` rows of a packed batch (see `data.sequences`), `B` sequences, `T` time steps, `D`
features of an input, `H` hidden size. Gates are in PyTorch's order: reset, update, new.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PackedGRU(nn.GRU):
    """`nn.GRU` with its parameters, computed in two halves: `project`, then `recur`.

    Recurrent weights start orthogonal (Saxe et al., arXiv:1312.6120), and the update gate with a
    bias of 1, so that the state is kept at first (as an LSTM's forget gate: Jozefowicz et al., ICML
    2015).
    """

    def reset_parameters(self) -> None:
        """Draw the first weights from PyTorch's global generator."""
        super().reset_parameters()
        with torch.no_grad():
            for gate in self.get_parameter("weight_hh_l0").chunk(3):
                nn.init.orthogonal_(gate)
            self.get_parameter("bias_ih_l0").chunk(3)[1].add_(1.0)

    def project(self, inputs: Tensor) -> Tensor:
        """Inputs `(N, D)` to the inputs' part of all gates, `(N, 3H)`."""
        weight, bias = self.get_parameter("weight_ih_l0"), self.get_parameter("bias_ih_l0")
        return F.linear(inputs, weight, bias)

    def recur(self, gates: Tensor, batch_sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Run over time. Returns all states, `(N, H)`, and each sequence's last one, `(B, H)`.

        gates: what `project` returned, float32 `(N, 3H)`. batch_sizes: sequences that are active at
        each time step, int64 `(T,)`, on the CPU.
        """
        weight, bias = self.get_parameter("weight_hh_l0"), self.get_parameter("bias_hh_l0")
        states, last = _Recurrence.apply(gates, weight, bias, batch_sizes)
        return states, last


class _Recurrence(torch.autograd.Function):
    """All time steps: gates `(N, 3H)`, weight `(3H, H)`, bias `(3H,)` and batch sizes `(T,)`."""

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, weight: Tensor, bias: Tensor, batch_sizes: Tensor
    ) -> tuple[Tensor, Tensor]:
        sizes, width = tuple(batch_sizes.tolist()), weight.shape[1]
        hidden, sigmoids = torch.empty_like(gates), gates.new_empty(len(gates), 2 * width)
        new, states = gates.new_empty(len(gates), width), gates.new_empty(len(gates), width)
        # Views of each time step's rows, taken once: slicing costs as much as computing.
        steps = _split(
            sizes,
            hidden,
            gates[:, : 2 * width],
            hidden[:, : 2 * width],
            sigmoids,
            gates[:, 2 * width :],
            hidden[:, 2 * width :],
            sigmoids[:, :width],
            sigmoids[:, width:],
            new,
            states,
        )
        state, transposed = gates.new_zeros(sizes[0], width), weight.t()
        for size, (h, x_ru, h_ru, ru, x_n, h_n, reset, update, n, out) in steps:
            previous = state[:size]
            torch.addmm(bias, previous, transposed, out=h)
            torch.add(x_ru, h_ru, out=ru).sigmoid_()
            torch.addcmul(x_n, reset, h_n, out=n).tanh_()
            state = torch.lerp(n, previous, update, out=out)
        ctx.sizes = sizes
        ctx.save_for_backward(weight, states, new, hidden, sigmoids)
        return states, _last_states(states, sizes)

    @staticmethod
    def backward(
        ctx: Any, grad_states: Tensor, grad_last: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        weight, states, new, hidden, sigmoids = ctx.saved_tensors
        sizes, width = ctx.sizes, weight.shape[1]
        previous = _previous_states(states, sizes)
        reset, update = sigmoids.split(width, 1)
        # Derivatives of a state by the argument of each gate.
        to_new = (1 - update) * (1 - new * new)
        to_update = (previous - new) * update * (1 - update)
        new_to_reset = hidden[:, 2 * width :] * reset * (1 - reset)
        grad_hidden, grad_new = torch.empty_like(hidden), torch.empty_like(new)
        steps = _split(
            sizes,
            grad_states,
            to_new,
            new_to_reset,
            to_update,
            reset,
            update,
            grad_new,
            grad_hidden,
            grad_hidden[:, :width],
            grad_hidden[:, width : 2 * width],
            grad_hidden[:, 2 * width :],
        )
        grad_state = grad_last.clone()
        for size, (outer, to_n, n_to_r, to_u, r, u, g_n, g_h, g_r, g_u, g_hn) in reversed(steps):
            grad = grad_state[:size]
            grad += outer
            torch.mul(grad, to_n, out=g_n)
            torch.mul(g_n, n_to_r, out=g_r)
            torch.mul(grad, to_u, out=g_u)
            torch.mul(g_n, r, out=g_hn)
            grad.mul_(u).addmm_(g_h, weight)
        grad_weight, grad_bias = grad_hidden.t() @ previous, grad_hidden.sum(0)
        grad_hidden[:, 2 * width :] = grad_new  # from here on the gradient of the gates
        return grad_hidden, grad_weight, grad_bias, None


def _split(sizes: tuple[int, ...], *tensors: Tensor) -> list[tuple[int, tuple[Tensor, ...]]]:
    """For each time step its batch size and its rows of every tensor."""
    rows = zip(*(tensor.split(sizes) for tensor in tensors), strict=True)
    return list(zip(sizes, rows, strict=True))


def _previous_states(states: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """The state before each time step, `(N, H)`."""
    parts = [states.new_zeros(sizes[0], states.shape[1])]
    parts += [rows[:size] for rows, size in zip(states.split(sizes), sizes[1:], strict=False)]
    return torch.cat(parts)


def _last_states(states: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """The state after each sequence's last time step, `(B, H)`, longest sequence first."""
    following = (*sizes[1:], 0)
    ended = [rows[size:] for rows, size in zip(states.split(sizes), following, strict=True)]
    return torch.cat(ended[::-1])
