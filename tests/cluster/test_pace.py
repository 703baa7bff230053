"""How fast trials train, measured before the first one."""

from __future__ import annotations

import platform

import pytest
import torch

from crnn_search.cluster import pace
from crnn_search.cluster.nodes import Node
from crnn_search.cluster.resources import Allocation
from crnn_search.data.digits import Digits
from crnn_search.data.mnist_sums import MnistSums
from crnn_search.hyperparameters import Arithmetic
from crnn_search.spaces.file import parse_space

SPACE = parse_space("""
search: {epoch_sequences: 1000}
first: [{gru_sizes: [16]}]
space:
  conv_channels: {choice: [[2], [4], [8]]}
  gru_sizes: {choice: [[8], [16]]}
  pooling: 4
""")


def test_middle_is_neither_the_smallest_nor_the_largest() -> None:
    config = pace.middle(SPACE)
    assert config is not None
    sizes = (config.model.conv_channels, config.model.gru_sizes)
    assert sizes not in {((2,), (8,)), ((8,), (16,))}


@pytest.mark.parametrize("cores", [1.0, 0.0])
def test_pace_is_measured_here(
    digits: Digits, monkeypatch: pytest.MonkeyPatch, cores: float
) -> None:
    alive = [Node("id", platform.node(), cores, 0.0, 8.0)]
    monkeypatch.setattr(pace, "nodes", lambda: alive)
    threads = torch.get_num_threads()
    found = pace.measure_pace(SPACE, MnistSums(digits, 8), Allocation(1.0, 0.0, 2), Arithmetic())
    assert torch.get_num_threads() == threads
    if cores:
        assert found is not None
        assert 1e-7 < found < 0.1
    else:
        assert found is None, "no node runs trials"
