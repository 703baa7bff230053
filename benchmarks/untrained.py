"""Results of trials that train nothing: only searcher, scheduler and callback see them."""

from __future__ import annotations

from crnn_search.training.metrics import EpochMetrics
from crnn_search.tuning.epoch_result import EpochResult


def epoch_result(epoch: int, validation_rmse: float, *, done: bool = False) -> EpochResult:
    """The result of an epoch with this validation RMSE."""
    metrics = EpochMetrics(
        epoch=epoch,
        train_loss=1.0,
        validation_rmse=validation_rmse,
        exact_sum_rate=0.0,
        sequences_per_s=1.0,
        learning_rate=0.001,
        peak_memory_mb=1.0,
        seconds=0.0,
    )
    return EpochResult(epoch, 0.0, "node", "cpu", "float32", metrics=metrics, done=done)
