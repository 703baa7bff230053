"""A user's own data set as a task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from crnn_search.data import summary
from crnn_search.data.dataset import Dataset
from crnn_search.data.sequences import (
    SequenceTable,
    Shared,
    derive_seed,
    joined,
    shared_tensor,
)
from crnn_search.data.task import Draw
from crnn_search.data.task_info import TaskInfo
from crnn_search.errors import ConfigError
from crnn_search.hyperparameters import ImageShape

Longer = Literal["drop", "first", "last"]
"""What becomes of training sequences with too many images: left out, or their first or last."""


@dataclass(frozen=True)
class OwnSequences(Shared):
    """Sequences of a data set. Raises and gives what `Task` says.

    training, validation, test: tables into `images`; no test table if it was not loaded.
    """

    info: TaskInfo
    images: Tensor
    training: SequenceTable
    validation: SequenceTable
    test: SequenceTable | None
    longer: Longer
    facts: list[tuple[str, str]]

    def to(self, device: torch.device) -> OwnSequences:
        """The same task with its images on `device`."""
        return replace(self, images=self.images.to(device))

    def training_table(self, draw: Draw) -> SequenceTable:
        """`draw.sequences` sequences, or all if there are fewer, each once, in random order.

        Raises:
            ConfigError: all are longer than `draw.longest`, and are to be left out.
        """
        table = self.known_table() if draw.everything else self.training
        table = at_most(table, draw.longest, self.longer)
        if not len(table):
            raise ConfigError(
                [f"max_sequence_length: no training sequence has at most {draw.longest} images"]
            )
        generator = torch.Generator().manual_seed(derive_seed("train", draw.seed, draw.epoch))
        return table.take(torch.randperm(len(table), generator=generator)[: draw.sequences])

    def known_table(self) -> SequenceTable:
        """All sequences of training and validation, whole."""
        return joined([self.training, self.validation])

    def validation_table(self) -> SequenceTable:
        """All validation sequences, whole."""
        return self.validation

    def testing_table(self) -> SequenceTable:
        """All test sequences, whole. They must have been loaded."""
        assert self.test is not None
        return self.test

    def longer_table(self) -> None:
        """There are no other sequences than those of the data set."""

    def image_values(self) -> None:
        """What an image adds to a target is not known."""


@dataclass(frozen=True)
class OwnSource:
    """A data set in the cache. name, unit: for people."""

    dataset: Dataset
    name: str
    unit: str | None = None
    longer: Longer = "drop"

    @property
    def info(self) -> TaskInfo:
        targets = self.dataset.targets[self.dataset.rows("train")]
        return TaskInfo(
            name=self.name,
            data=f"{self.dataset.digest}/{self.longer}",
            target=self.dataset.found.target,
            shape=ImageShape(*self.dataset.images.shape[1:]),
            longest=int(self.dataset.lengths.max()),
            unit=self.unit,
            center=float(targets.mean()),
            scale=float(targets.std()),
        )

    @property
    def shortest(self) -> int:
        """Images of the shortest training sequence."""
        return int(self.dataset.lengths[self.dataset.rows("train")].min())

    @property
    def warnings(self) -> list[str]:
        return summary.warnings(self.dataset)

    def load(self, *, test: bool = False) -> OwnSequences:
        """The task, its images memory-mapped.

        Images of training and validation are the first ones in the file: see `data.read`.
        """
        training, validation = self._table("train"), self._table("validation")
        used = max(int(table.indices.max()) for table in (training, validation)) + 1
        images = self.dataset.images if test else self.dataset.images[:used]
        return OwnSequences(
            self.info,
            shared_tensor(images),
            training,
            validation,
            self._table("test") if test else None,
            self.longer,
            [*summary.describe(self.dataset), *(("warning", text) for text in self.warnings)],
        )

    def _table(self, split: str) -> SequenceTable:
        rows = self.dataset.rows(split)
        return SequenceTable(
            torch.from_numpy(self.dataset.table(rows)),
            torch.from_numpy(self.dataset.lengths[rows]),
            torch.from_numpy(self.dataset.targets[rows]),
            torch.from_numpy(self.dataset.groups[rows].astype(np.int64)),
        )


def at_most(table: SequenceTable, longest: int, longer: Longer) -> SequenceTable:
    """A table without images beyond `longest`. longer: what becomes of longer sequences."""
    if longer == "drop":
        table = table.take(table.lengths <= longest)
    indices, lengths = table.indices[:, :longest], table.lengths.clamp(max=longest)
    if longer == "last":
        steps = (table.lengths - lengths)[:, None] + torch.arange(indices.shape[1])
        inside = steps < table.lengths[:, None]
        indices = table.indices.gather(1, steps.clamp(max=table.indices.shape[1] - 1))
        indices = indices.masked_fill(~inside, 0)
    return SequenceTable(indices, lengths, table.targets, table.groups)
