"""What networks learn, from which images: MNIST's sums, or a data set of the user's own.

Shapes: `S` sequences of a table, `I` images of a data set, `C` channels, `H` rows, `W` columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from crnn_search.data.sequences import SequenceTable
from crnn_search.hyperparameters import ImageShape
from crnn_search.storage.checks import check_types, field_types


@dataclass(frozen=True)
class TaskInfo:
    """What a report and a model's file say of a task.

    name: `mnist_sums`, or that of the data set. data: identifies the sequences: two tasks with
    equal `data` train and validate on the same. target: what is predicted. unit: of the target.
    shape: of every image. longest: images of the longest sequence. center, scale: mean and standard
    deviation of the training targets, by which training standardises them. sums: the target is the
    sum of MNIST's digits, a whole number.
    """

    name: str
    data: str
    target: str
    shape: ImageShape
    longest: int
    unit: str | None = None
    center: float = 0.0
    scale: float = 1.0
    sums: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The information by name, ready for JSON."""
        return asdict(self) | {"shape": list(self.shape)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: a value is missing, unknown, or not valid.
        """
        shape, types = ImageShape.from_json(values["shape"]), field_types(cls)
        check_types({name: values[name] for name in types if name != "shape"}, types)
        if values["longest"] < 1:
            raise ValueError(f"longest must be a whole number from 1 on, got {values['longest']}")
        if not values["scale"] > 0:
            raise ValueError(f"scale must be a positive number, got {values['scale']}")
        return cls(**{**values, "shape": shape})


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
