"""Tables of digits, predictions of them, and plain ways to score these."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from crnn_search.data.digits import draw_table
from crnn_search.data.sequences import SequenceTable


def make_table(images: int, sequences: int, longest: int, seed: int = 3) -> SequenceTable:
    labels = torch.randint(10, (images,), generator=torch.Generator().manual_seed(seed))
    return draw_table(torch.arange(images), labels, sequences, longest, seed)


def noisy(table: SequenceTable, seed: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return table.targets + scale * torch.randn(len(table), generator=generator)


def plain_rmse(predictions: Tensor, table: SequenceTable, length: int | None = None) -> float:
    pairs = zip(predictions.tolist(), table.targets.tolist(), table.lengths.tolist(), strict=True)
    squares = [(p - y) ** 2 for p, y, n in pairs if length in {None, n}]
    return math.sqrt(sum(squares) / len(squares))


def naive_interval(predictions: Tensor, table: SequenceTable) -> tuple[float, float]:
    """The interval from resampling sequences as if they were independent."""
    squares = (predictions - table.targets).double().square()
    mse = squares.mean().item()
    half = 1.96 * squares.std().item() / math.sqrt(len(table)) / (2 * mse)
    return math.sqrt(mse) * math.exp(-half), math.sqrt(mse) * math.exp(half)
