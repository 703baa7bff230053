"""ASHA's side of Ray Tune: which trials are stopped early."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from crnn_search.storage.trial import METRIC, TrialRecord
from crnn_search.tuning.epoch_result import EpochResult
from crnn_search.tuning.tune_trial import name_of


class FiniteAsha(ASHAScheduler):  # type: ignore[misc]
    """`ASHAScheduler` that a failed trial cannot disturb and that can be filled again.

    What is wrong in Ray 2.60's `ASHAScheduler`, and corrected here:

    - It answers CONTINUE to NaN (`nan < cutoff` is false) and records it in the rung. Here such a
      trial, or one that reports a failure, is stopped and leaves no trace.
    - `Tuner.restore` brings back trials and searcher but starts with empty rungs (ray#30838): its
      `save` and `restore` are never called. Here rungs identify trials by name, which a resumed
      search keeps, and `replay` fills them from the run's journal.

    Asynchronous successive halving: Li et al., arXiv:1810.05934.
    """

    def __init__(
        self,
        max_epochs: int,
        grace_epochs: int,
        reduction_factor: float,
        may_continue: Callable[[], bool] = lambda: True,
    ) -> None:
        """may_continue: asked after each epoch whether the search's budget lets trials run."""
        super().__init__(
            time_attr="epoch",
            metric=METRIC,
            mode="min",
            max_t=max_epochs,
            grace_period=grace_epochs,
            reduction_factor=reduction_factor,
        )
        self._may_continue = may_continue
        self._decided: dict[str, int] = {}

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial is new, or is retried."""
        super().on_trial_add(tune_controller, _named(name_of(trial.config)))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """STOP or CONTINUE after an epoch."""
        step = EpochResult.from_dict(result)
        rmse = None if step.failed else step.validation_rmse
        return self._decide(name_of(trial.config), step.epoch, rmse)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Record the last value of a trial that reached its full budget."""
        step = EpochResult.from_dict(result)
        rmse = None if step.failed else step.validation_rmse
        self._complete(name_of(trial.config), step.epoch, rmse)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """A trial was taken back before it started."""
        self._forget(name_of(trial.config))

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """A trial's process died; its values stay in their rungs."""
        self._forget(name_of(trial.config))

    def replay(self, record: TrialRecord) -> bool:
        """Take in what an earlier session saw of a trial; whether it was to stop after that."""
        name, values = record.trial.name, record.validation_rmse
        stop = False
        rmse: float | None = None
        super().on_trial_add(None, _named(name))
        for epoch, rmse in enumerate(values, start=1):
            if record.failure is not None and epoch == len(values):
                rmse = None
            stop = self._decide(name, epoch, rmse) == TrialScheduler.STOP
        if record.ended and values:
            self._complete(name, len(values), rmse)
        else:
            self._forget(name)
        return stop

    def _decide(self, name: str, epoch: int, rmse: float | None) -> str:
        """STOP or CONTINUE after an epoch. rmse: finite; None for a trial that failed."""
        if rmse is None:
            return str(TrialScheduler.STOP)
        if epoch <= self._decided.get(name, 0):
            return str(TrialScheduler.CONTINUE)  # decided before its process died
        self._decided[name] = epoch
        decision = super().on_trial_result(None, _named(name), {"epoch": epoch, METRIC: rmse})
        return str(decision if self._may_continue() else TrialScheduler.STOP)

    def _complete(self, name: str, epoch: int, rmse: float | None) -> None:
        if rmse is None:
            self._forget(name)
        else:
            super().on_trial_complete(None, _named(name), {"epoch": epoch, METRIC: rmse})

    def _forget(self, name: str) -> None:
        """Drop a trial's bracket; its values stay in their rungs."""
        self._trial_info.pop(name, None)


def _named(name: str) -> Any:
    """A trial for the rungs, under its own name: Tune's id of it changes when it is retried."""
    return SimpleNamespace(trial_id=name)
