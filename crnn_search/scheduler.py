"""ASHA's side of Ray Tune: which trials are stopped early."""

from __future__ import annotations

import math
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from crnn_search.trainable import METRIC


class FiniteAsha(ASHAScheduler):  # type: ignore[misc]
    """`ASHAScheduler` that a failed trial cannot disturb.

    Ray 2.60's scheduler answers CONTINUE to a value that is not a number (`nan < cutoff` is false)
    and records it in the rung. Here such a trial, or one that reports a failure, is stopped and
    leaves no trace in any rung.

    Asynchronous successive halving: Li et al., arXiv:1810.05934.
    """

    def __init__(self, max_epochs: int, grace_epochs: int, reduction_factor: float) -> None:
        super().__init__(
            time_attr="epoch",
            metric=METRIC,
            mode="min",
            max_t=max_epochs,
            grace_period=grace_epochs,
            reduction_factor=reduction_factor,
        )

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """STOP or CONTINUE after an epoch."""
        if _failed(result):
            return str(TrialScheduler.STOP)
        return str(super().on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Record the last value of a trial that reached its full budget."""
        if _failed(result):
            self._trial_info.pop(trial.trial_id, None)
        else:
            super().on_trial_complete(tune_controller, trial, result)


def _failed(result: dict[str, Any]) -> bool:
    return "failure" in result or not math.isfinite(result.get(METRIC, math.nan))
