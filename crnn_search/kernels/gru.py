"""A GRU over a packed batch on a CPU, with its gradient written out.

PyTorch's own builds a graph of some twenty small operations for each time step and multiplies for
the weights' gradients at each. Here a step is the few operations that depend on the step before;
all else is done once for all steps.

Shapes: `N` rows of a packed batch (see `data`), `B` sequences, `T` time steps, `H` width. Gates
stand in PyTorch's order: reset, update, new.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from crnn_search.kernels import matrices, native


def of_input(gru: nn.GRU) -> tuple[Tensor, Tensor]:
    """The weights, `(3H, D)`, and the bias, `(3H,)`, of what all gates get of the input."""
    return gru.get_parameter("weight_ih_l0"), gru.get_parameter("bias_ih_l0")


def run(gru: nn.GRU, gates: Tensor, batch_sizes: Tensor) -> tuple[Tensor, Tensor]:
    """States of all steps, `(N, H)`, and the last one of each sequence, `(B, H)`; both float32.

    gates: the input's part of them, float32 `(N, 3H)`. batch_sizes: sequences alive at each time
    step, int64 `(T,)`.
    """
    compiled = gates.device.type == "cpu" and native.problem() is None
    recurrence = _Compiled if compiled and torch.get_num_threads() == 1 else _Recurrence
    weight, bias = gru.get_parameter("weight_hh_l0"), gru.get_parameter("bias_hh_l0")
    states, last = recurrence.apply(gates, weight, bias, batch_sizes)
    return states, last


class _Compiled(torch.autograd.Function):
    """All steps in one call, on one thread of a CPU."""

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, weight: Tensor, bias: Tensor, batch_sizes: Tensor
    ) -> tuple[Tensor, Tensor]:
        states, last, saved = matrices.gru_forward(
            gates.contiguous(), weight.contiguous(), bias.contiguous(), batch_sizes
        )
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(batch_sizes, weight, *saved)
        return states, last

    @staticmethod
    def backward(
        ctx: Any, of_states: Tensor | None, of_last: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        batch_sizes, weight, *saved = ctx.saved_tensors
        of_gates, of_hidden, of_bias = matrices.gru_backward(
            of_states, of_last, weight.contiguous(), tuple(saved), batch_sizes
        )
        return of_gates, of_hidden.t() @ saved[0], of_bias, None


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, weight: Tensor, bias: Tensor, batch_sizes: Tensor
    ) -> tuple[Tensor, Tensor]:
        alive, width = tuple(batch_sizes.tolist()), weight.shape[1]
        hidden, sigmoids = torch.empty_like(gates), gates.new_empty(len(gates), 2 * width)
        new, states = gates.new_empty(len(gates), width), gates.new_empty(len(gates), width)
        # A tensor's rows by step, as views: taken once, since slicing costs as much as computing.
        steps = zip(
            alive,
            *(
                tensor.split(alive)
                for tensor in (
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
            ),
            strict=True,
        )
        state, turned = gates.new_zeros(alive[0], width), weight.t()
        for count, h, x_ru, h_ru, ru, x_n, h_n, reset, update, n, now in steps:
            before = state[:count]
            torch.addmm(bias, before, turned, out=h)
            torch.add(x_ru, h_ru, out=ru).sigmoid_()
            torch.addcmul(x_n, reset, h_n, out=n).tanh_()
            state = torch.lerp(n, before, update, out=now)
        ctx.alive = alive
        ctx.save_for_backward(weight, states, new, hidden, sigmoids)
        return states, _last(states, alive)

    @staticmethod
    def backward(
        ctx: Any, of_states: Tensor, of_last: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        weight, states, new, hidden, sigmoids = ctx.saved_tensors
        alive, width = ctx.alive, weight.shape[1]
        before = _before(states, alive)
        reset, update = sigmoids.split(width, 1)
        # What a state's gradient is multiplied by to give that of each gate's argument.
        to_new = (1 - update) * (1 - new * new)
        to_update = (before - new) * update * (1 - update)
        new_to_reset = hidden[:, 2 * width :] * reset * (1 - reset)
        of_hidden, of_new = torch.empty_like(hidden), torch.empty_like(new)
        steps = zip(
            alive,
            *(
                tensor.split(alive)
                for tensor in (
                    of_states,
                    to_new,
                    new_to_reset,
                    to_update,
                    reset,
                    update,
                    of_new,
                    of_hidden,
                    of_hidden[:, :width],
                    of_hidden[:, width : 2 * width],
                    of_hidden[:, 2 * width :],
                )
            ),
            strict=True,
        )
        carried = of_last.clone()
        for count, outer, to_n, n_to_r, to_u, r, u, of_n, of_h, of_r, of_u, of_hn in reversed(
            list(steps)
        ):
            state = carried[:count]
            state += outer
            torch.mul(state, to_n, out=of_n)
            torch.mul(of_n, n_to_r, out=of_r)
            torch.mul(state, to_u, out=of_u)
            torch.mul(of_n, r, out=of_hn)
            state.mul_(u).addmm_(of_h, weight)
        of_weight, of_bias = of_hidden.t() @ before, of_hidden.sum(0)
        of_hidden[:, 2 * width :] = of_new  # that of the gates from here on
        return of_hidden, of_weight, of_bias, None


def _before(states: Tensor, alive: tuple[int, ...]) -> Tensor:
    """The state before each step: `(N, H)`."""
    parts = [states.new_zeros(alive[0], states.shape[1])]
    parts += [rows[:count] for rows, count in zip(states.split(alive), alive[1:], strict=False)]
    return torch.cat(parts)


def _last(states: Tensor, alive: tuple[int, ...]) -> Tensor:
    """The state after each sequence's last step: `(B, H)`, longest sequence first."""
    after = (*alive[1:], 0)
    ended = [rows[count:] for rows, count in zip(states.split(alive), after, strict=True)]
    return torch.cat(ended[::-1])
