"""ASHA's side of Ray Tune: which trials are stopped early."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from crnn_search.storage.trial import METRIC, JobRecord


class FiniteAsha(ASHAScheduler):  # type: ignore[misc]
    """`ASHAScheduler` that a failed trial cannot disturb and that can be filled again.

    What is wrong in Ray 2.60's `ASHAScheduler`, and put right here:

    - It answers CONTINUE to a value that is not a number (`nan < cutoff` is false) and records it
      in the rung. Here such a trial, or one that reports a failure, is stopped and leaves no trace.
    - `Tuner.restore` brings back trials and searcher but starts with empty rungs (ray#30838): its
      `save` and `restore` are called by nobody. Here rungs know trials by their job's name, which
      a resumed search keeps, and `replay` fills them from the run's journal.

    Asynchronous successive halving: Li et al., arXiv:1810.05934.
    """

    def __init__(
        self,
        max_epochs: int,
        grace_epochs: int,
        reduction_factor: float,
        may_go_on: Callable[[], bool] = lambda: True,
    ) -> None:
        """`may_go_on` tells, after each epoch, whether the search's budget lets trials run."""
        super().__init__(
            time_attr="epoch",
            metric=METRIC,
            mode="min",
            max_t=max_epochs,
            grace_period=grace_epochs,
            reduction_factor=reduction_factor,
        )
        self._may_go_on = may_go_on
        self._known: dict[str, int] = {}

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial is new, or comes back after its process died."""
        super().on_trial_add(tune_controller, _by_name(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """STOP or CONTINUE after an epoch."""
        if _failed(result):
            return str(TrialScheduler.STOP)
        named, epoch = _by_name(trial), result["epoch"]
        if epoch <= self._known.get(named.trial_id, 0):
            return str(TrialScheduler.CONTINUE)  # decided before its process died
        self._known[named.trial_id] = epoch
        decision = str(super().on_trial_result(tune_controller, named, result))
        return decision if self._may_go_on() else str(TrialScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Record the last value of a trial that reached its full budget."""
        named = _by_name(trial)
        if _failed(result):
            self._trial_info.pop(named.trial_id, None)
        else:
            super().on_trial_complete(tune_controller, named, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """A trial was taken back before it began."""
        self._trial_info.pop(_by_name(trial).trial_id, None)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """A trial's process died; what it reported stands."""
        self._trial_info.pop(_by_name(trial).trial_id, None)

    def replay(self, record: JobRecord) -> bool:
        """Take in what an earlier process saw of a trial; whether it was to stop after that."""
        trial = SimpleNamespace(config={"job": {"name": record.job.name}})
        decision = str(TrialScheduler.CONTINUE)
        result: dict[str, Any] = {}
        self.on_trial_add(None, trial)
        for epoch, value in enumerate(record.values, start=1):
            result = {"epoch": epoch, METRIC: math.nan if value is None else value}
            if record.failure is not None and epoch == len(record.values):
                result["failure"] = record.failure
            decision = self.on_trial_result(None, trial, result)
        if record.state and result:
            self.on_trial_complete(None, trial, result)
        else:
            self.on_trial_error(None, trial)
        return bool(decision == TrialScheduler.STOP)


def _by_name(trial: Any) -> Any:
    """A trial as the rungs know it; Ray's own id of it changes when it comes back."""
    return SimpleNamespace(trial_id=trial.config["job"]["name"])


def _failed(result: dict[str, Any]) -> bool:
    troubles = {"failure", "out_of_memory", "storage"}
    return bool(troubles & set(result)) or not math.isfinite(result.get(METRIC, math.nan))
