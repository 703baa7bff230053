"""A search space with every kind of domain, and what the tests of spaces share."""

from __future__ import annotations

import pytest

from crnn_search.errors import SpaceError
from crnn_search.spaces.file import parse_space
from crnn_search.spaces.space import SearchSpace

FULL = """\
task: {max_digits: 8}
search: {trials: 16, max_epochs: 27, grace_epochs: 1, reduction_factor: 3, epoch_sequences: 6000,
         max_concurrent_trials: auto, seed: 0}
retrain: {epochs: 40, seeds: 3, finalists: 3}
resources: {cpus_per_trial: 1, gpus_per_trial: auto}
first:
  - {conv_channels: [16, 32], learning_rate: 0.003}
space:
  conv_channels: {list_of: {int: [8, 64], log: true}, length: [1, 4]}
  gru_sizes: {list_of: {int: [32, 256], log: true}, length: [1, 3]}
  dropout: {float: [0.0, 0.5]}
  max_sequence_length: {int: [2, 8]}
  learning_rate: {float: [1.0e-4, 2.0e-2], log: true}
  batch_size: {choice: [64, 128, 256, 512]}
  optimizer: adamw
  kernel_size: {choice: [3, 5, [4, 3]]}
"""


def problems(text: str, overrides: list[str] | None = None) -> list[str]:
    """The problems of a space that is not valid."""
    with pytest.raises(SpaceError, match=r".") as caught:
        parse_space(text, overrides or [])
    return caught.value.problems


def space_of(*lines: str) -> SearchSpace:
    """A space with lines `name: domain`."""
    return parse_space("space:\n" + "".join(f"  {line}\n" for line in lines))
