"""The written-out GRU against PyTorch's."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from crnn_search import recurrence


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 6), st.integers(1, 7))
def test_states_and_gradients_are_pytorchs(lengths: list[int], inputs: int, width: int) -> None:
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
            states, last = recurrence.run(gru, recurrence.project(gru, rows), alive)
        else:
            packed, final = gru(PackedSequence(rows, alive))
            states, last = packed.data, final[-1]
        weights = torch.linspace(-1, 1, states.numel()).view(states.shape)
        ((states * weights).sum() + last.square().sum()).backward()
        gradients = [p.grad.clone() for p in gru.parameters() if p.grad is not None]
        parts.append([states.detach(), last.detach(), rows.grad, *gradients])
    for found, expected in zip(*parts, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
