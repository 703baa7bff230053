"""Metrics of one epoch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class EpochMetrics:
    """Metrics of one epoch. Loss (squared) and RMSE are in the target's unit.

    Those of validation are None without it; the exact rate, too, unless targets are sums.
    """

    epoch: int
    train_loss: float
    validation_rmse: float | None
    exact_sum_rate: float | None
    sequences_per_s: float
    learning_rate: float
    peak_memory_mb: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The metrics by name."""
        return asdict(self)


def rmse(predictions: Tensor, targets: Tensor) -> float:
    """Root of the mean squared error of predictions `(S,)`; NaN propagates."""
    return math.sqrt((predictions.double() - targets.double()).square().mean().item())


def exact_sum_rate(predictions: Tensor, sums: Tensor) -> float:
    """Share of the predictions `(S,)` that round to the true sum."""
    return (predictions.round() == sums).double().mean().item()
