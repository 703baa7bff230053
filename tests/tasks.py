"""Tasks for tests: sums of few digits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from crnn_search.data.digits import draw_table
from crnn_search.data.mnist_sums import MnistSums
from crnn_search.data.sequences import SequenceTable


@dataclass(frozen=True)
class FewDigits(MnistSums):
    """Trains on the first `pool` images, and is validated on 200 sequences of the next ones."""

    max_digits: int = 8
    pool: int = 1000

    @property
    def _training_images(self) -> Tensor:
        return torch.arange(self.pool)

    def validation_table(self) -> SequenceTable:
        last = min(2 * self.pool, len(self.digits.labels))
        return draw_table(
            torch.arange(self.pool, last), self.digits.labels, 200, self.max_digits, 1
        )
