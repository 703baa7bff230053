"""Entries of `first` whose network is too large."""

from __future__ import annotations

from typing import Any

import pytest

from crnn_search.hyperparameters import MNIST_SHAPE, ModelSpec
from crnn_search.spaces.file import parse_space
from tests.spaces.examples import problems

SPACE = """\
space:
  conv_channels: {list_of: {int: [4, 64]}, length: [1, 3]}
  gru_sizes: {list_of: {int: [8, 256]}, length: [1, 2]}
  embedding: {choice: [0, 32, 64]}
  batch_norm: {choice: [yes, no]}
  dropout: {float: [0, 0.5]}
"""


def first(entry: str, max_parameters: int) -> str:
    return f"search: {{max_parameters: {max_parameters}}}\nfirst:\n  - {entry}\n{SPACE}"


def count(**values: Any) -> int:
    return ModelSpec(**values).parameter_count(MNIST_SHAPE)


def test_a_whole_network_that_is_too_large_is_refused() -> None:
    entry = "{conv_channels: [16, 32], gru_sizes: [64], embedding: 0, batch_norm: yes}"
    parameters = count(conv_channels=[16, 32], gru_sizes=[64])
    assert problems(first(entry, parameters - 1)) == [
        f"space.yaml:3: first[0]: is infeasible: the network has {parameters:,} parameters; "
        f"search.max_parameters is {parameters - 1:,}"
    ]
    assert len(parse_space(first(entry, parameters)).first) == 1


@pytest.mark.parametrize(
    "entry",
    [
        "{}",
        "{dropout: 0.1}",
        "{gru_sizes: [250, 250]}",
        "{conv_channels: [64, 64, 64], embedding: 0}",
    ],
)
def test_an_entry_that_a_small_part_may_complete_is_valid(entry: str) -> None:
    assert len(parse_space(first(entry, 60_000)).first) == 1


def test_values_that_the_space_does_not_name_are_the_defaults() -> None:
    space = "first: [{gru_sizes: 99}]\nspace: {gru_sizes: {list_of: {int: [9, 99]}, length: 1}}\n"
    parameters = count(gru_sizes=[99])
    assert len(parse_space(space, [f"search.max_parameters={parameters}"]).first) == 1
    assert problems(space, [f"search.max_parameters={parameters - 1}"]) == [
        f"space.yaml:1: first[0]: is infeasible: the network has {parameters:,} parameters; "
        f"search.max_parameters is {parameters - 1:,}"
    ]


def test_a_space_without_a_feasible_sample_is_one_problem() -> None:
    (found,) = problems(first("{gru_sizes: [250, 250]}", 50))
    assert ": space: no sample is feasible: the network has " in found
