"""What networks learn, from which images: MNIST's sums, or a data set of the user's own.

Shapes: `S` sequences of a table, `I` images of a data set, `C` channels, `H` rows, `W` columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from crnn_search.data.sequences import SequenceTable
from crnn_search.data.task_info import TaskInfo


@dataclass(frozen=True)
class Draw:
    """Which sequences an epoch of a training has, drawn from (`seed`, `epoch`).

    sequences: at most so many. longest: images of the longest one. batch_size: sequences of a step.
    everything: validation data are training data, too. reuse: how often a batch has each of its
    images, a divisor of `batch_size`; 1 unless targets are sums of digits.
    """

    sequences: int
    longest: int
    seed: int
    epoch: int
    batch_size: int
    everything: bool = False
    reuse: int = 1


class Task(Protocol):
    """A task with its images in memory, or memory-mapped.

    Ray pickles it; what its processes get shares the memory of the images.
    """

    @property
    def info(self) -> TaskInfo: ...

    @property
    def images(self) -> Tensor:
        """uint8 `(I, C, H, W)`; without those of test sequences alone, unless they were loaded."""

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What is in the data, for the report: the name of each thing, and its value."""

    def to(self, device: torch.device) -> Task:
        """The same task with its images on `device`. Tables stay on the CPU."""

    def training_table(self, draw: Draw) -> SequenceTable:
        """The sequences of one epoch.

        Raises:
            ConfigError: no sequence is so short.
        """

    def known_table(self) -> SequenceTable:
        """All that a baseline may know: the sequences of training and validation."""

    def validation_table(self) -> SequenceTable:
        """The sequences that every trial is validated on, always the same."""

    def testing_table(self) -> SequenceTable:
        """The sequences that only the final report reads. Their images must have been loaded."""

    def longer_table(self) -> SequenceTable | None:
        """Test sequences that are longer than any of training; None where there are none."""

    def image_values(self) -> Tensor | None:
        """What each image adds to a target, `(I,)`; None where that is not known."""


class Source(Protocol):
    """Where a task comes from."""

    @property
    def info(self) -> TaskInfo: ...

    @property
    def warnings(self) -> list[str]:
        """What makes scores doubtful, or may be a mistake."""

    def load(self, *, test: bool = False) -> Task:
        """The task. test: with the images of test sequences.

        Raises:
            DataError: the data are missing or damaged.
        """
