"""The built-in task: sums of MNIST's digits, supervised by the sum alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from crnn_search.data import digits as tables
from crnn_search.data import mnist
from crnn_search.data.digits import TRAINING_IMAGES, Digits
from crnn_search.data.sequences import SequenceTable, Shared
from crnn_search.data.task import Draw
from crnn_search.data.task_info import TaskInfo
from crnn_search.hyperparameters import ImageShape


@dataclass(frozen=True)
class MnistSums(Shared):
    """Sums of 1 to `max_digits` digits. Raises and gives what `Task` says.

    digits: training images, and test images behind them if they were loaded.
    """

    digits: Digits
    max_digits: int

    @property
    def info(self) -> TaskInfo:
        shape = ImageShape(*self.images.shape[1:])
        return TaskInfo(
            name="mnist_sums",
            data=f"mnist_sums/{self.max_digits}",
            target="sum",
            shape=shape,
            longest=self.max_digits,
            sums=True,
        )

    @property
    def images(self) -> Tensor:
        return self.digits.pixels

    @property
    def facts(self) -> list[tuple[str, str]]:
        return []

    def to(self, device: torch.device) -> MnistSums:
        """The same task with its images on `device`."""
        return replace(self, digits=Digits(self.digits.images.to(device), self.digits.labels))

    def training_table(self, draw: Draw) -> SequenceTable:
        """`draw.sequences` sequences of one epoch, or up to `draw.reuse` - 1 less."""
        pool = torch.arange(TRAINING_IMAGES) if draw.everything else self._training_images
        return tables.training_table(pool, self.digits.labels, draw)

    def known_table(self) -> SequenceTable:
        """Each training image alone, with its digit: what sequences are drawn from."""
        digits = self.digits.labels[:TRAINING_IMAGES].cpu().float()
        images = torch.arange(TRAINING_IMAGES, dtype=torch.int32)
        return SequenceTable(images[:, None], torch.ones(TRAINING_IMAGES).long(), digits)

    def validation_table(self) -> SequenceTable:
        """The fixed sequences of validation images."""
        return tables.validation_table(self.digits.labels, self.max_digits)

    def testing_table(self) -> SequenceTable:
        """The fixed sequences of test images."""
        return tables.testing_table(self.digits.labels, self.max_digits)

    def longer_table(self) -> SequenceTable:
        """The fixed longer sequences of test images."""
        return tables.longer_table(self.digits.labels, self.max_digits)

    def image_values(self) -> Tensor:
        """The digit of each image, uint8 `(I,)`."""
        return self.digits.labels

    @cached_property
    def _training_images(self) -> Tensor:
        return tables.split_images(self.digits.labels)[0]


@dataclass(frozen=True)
class MnistSource:
    """MNIST's files. data_dir: their folder, None for the cache or a download."""

    max_digits: int
    data_dir: Path | None = None

    @property
    def info(self) -> TaskInfo:
        return MnistSums(_NO_DIGITS, self.max_digits).info

    @property
    def warnings(self) -> list[str]:
        return []

    def load(self, *, test: bool = False) -> MnistSums:
        """The task; raises as `mnist.load`."""
        return MnistSums(mnist.load(self.data_dir, test_images=test), self.max_digits)


_NO_DIGITS = Digits(torch.empty(0, 28, 28, dtype=torch.uint8), torch.empty(0, dtype=torch.uint8))
