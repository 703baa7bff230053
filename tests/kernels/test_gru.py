"""The written-out GRU against PyTorch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from crnn_search.kernels import gru as recurrence
from crnn_search.kernels import native


def test_with_kernels_there_is_one_call_for_all_steps() -> None:
    assert native.problem() is None
    gru = nn.GRU(2, 3)
    states, _ = recurrence.run(gru, torch.randn(4, 9), torch.tensor([3, 1]))
    assert type(states.grad_fn).__name__ == "_CompiledBackward"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=30),
    st.integers(1, 6),
    st.integers(1, 19),
    st.booleans(),
)
def test_states_and_gradients_are_pytorchs(
    lengths: list[int], inputs: int, width: int, compiled: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(native, "problem", lambda: "none here")
        compare(lengths, inputs, width)


@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0, 1e4])
def test_gates_of_any_size_are_near(size: float) -> None:
    gru = nn.GRU(3, 8)
    gates = torch.linspace(-size, size, 5 * 24).view(5, 24)
    weights = gru.get_parameter("weight_hh_l0"), gru.get_parameter("bias_hh_l0")
    found = [
        function.apply(gates, *weights, torch.tensor([3, 2]))[0]
        for function in (recurrence._Compiled, recurrence._Recurrence)
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_what_is_not_a_number_stays_none() -> None:
    states, last = recurrence.run(nn.GRU(2, 5), torch.full((4, 15), torch.nan), torch.tensor([4]))
    assert states.isnan().all()
    assert last.isnan().all()


def compare(lengths: list[int], inputs: int, width: int) -> None:
    torch.manual_seed(len(lengths))
    falling = torch.tensor(sorted(lengths, reverse=True))
    alive = (torch.arange(int(falling[0]))[:, None] < falling).sum(1)
    gru = nn.GRU(inputs, width)
    features = torch.randn(sum(lengths), inputs)
    parts = []
    for fast in (True, False):
        rows = features.clone().requires_grad_()
        gru.zero_grad()
        if fast:
            states, last = recurrence.run(gru, F.linear(rows, *recurrence.of_input(gru)), alive)
        else:
            packed, final = gru(PackedSequence(rows, alive))
            states, last = packed.data, final[-1]
        weights = torch.linspace(-1, 1, states.numel()).view(states.shape)
        ((states * weights).sum() + last.square().sum()).backward()
        gradients = [p.grad.clone() for p in gru.parameters() if p.grad is not None]
        parts.append([states.detach(), last.detach(), rows.grad, *gradients])
    for found, expected in zip(*parts, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
