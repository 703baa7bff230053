"""Asynchronous successive halving (ASHA): which trials are stopped early."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from crnn_search.storage.trial import TrialRecord
from crnn_search.tuning.epoch_result import EpochResult, last_result
from crnn_search.tuning.tune_trial import name_of


class Asha(FIFOScheduler):  # type: ignore[misc]
    """Asynchronous successive halving (Li et al., arXiv:1810.05934), as a scheduler of Ray Tune.

    Rungs are at `grace_epochs` times powers of the reduction factor. The first value of a trial at
    or beyond a rung is recorded there, and the trial stops if it is not among the best
    1 / reduction factor of those recorded before. Decisions are those of Ray's `ASHAScheduler`
    with one bracket, but for two faults of Ray 2.60's:

    - It answers CONTINUE to NaN (`nan < cutoff` is false) and records it in the rung. Here such a
      trial, or one that reports a failure, is stopped and leaves no trace.
    - `Tuner.restore` starts with empty rungs (ray#30838): its `save` and `restore` are never
      called. Here rungs identify trials by name, which a retried trial and a resumed search keep,
      and `replay` fills them from the run's journal.

    rungs: by their epoch, the validation RMSE of each trial that reached it, by name.
    """

    def __init__(
        self,
        max_epochs: int,
        grace_epochs: int,
        reduction_factor: float,
        may_continue: Callable[[], bool] = lambda: True,
    ) -> None:
        """may_continue: asked after each epoch whether the search goes on."""
        super().__init__()
        self.rungs: dict[float, dict[str, float]] = {
            grace_epochs * reduction_factor**rung: {}
            for rung in range(int(np.log(max_epochs / grace_epochs) / np.log(reduction_factor)) + 1)
        }
        self._max_epochs = max_epochs
        self._kept = 1 / reduction_factor
        self._may_continue = may_continue
        self._decided: dict[str, int] = {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """STOP or CONTINUE after an epoch."""
        step = EpochResult.from_dict(result)
        rmse = None if step.failed else step.validation_rmse
        return self.decide(name_of(trial.config), step.epoch, rmse)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Record the last value of a trial that reached its full budget."""
        step = last_result(result)
        if step and not step.failed and step.validation_rmse is not None:
            self._record(name_of(trial.config), step.epoch, step.validation_rmse)

    def replay(self, record: TrialRecord) -> bool:
        """Take in what an earlier session saw of a trial; whether it was to stop after that."""
        name, values = record.trial.name, record.validation_rmse
        stop = False
        rmse: float | None = None
        for epoch, rmse in enumerate(values, start=1):
            if record.failure is not None and epoch == len(values):
                rmse = None
            stop = self.decide(name, epoch, rmse) == TrialScheduler.STOP
        if record.ended and rmse is not None:
            self._record(name, len(values), rmse)
        return stop

    def decide(self, name: str, epoch: int, rmse: float | None) -> str:
        """STOP or CONTINUE after an epoch. rmse: finite; None for a trial that failed."""
        if rmse is None:
            return str(TrialScheduler.STOP)
        if epoch <= self._decided.get(name, 0):
            return str(TrialScheduler.CONTINUE)  # decided before its process died
        self._decided[name] = epoch
        good = epoch < self._max_epochs and self._record(name, epoch, rmse)
        goes_on = good and self._may_continue()
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def _record(self, name: str, epoch: int, rmse: float) -> bool:
        """Record a value in the highest rung that lacks it; whether it is good enough to go on."""
        for milestone, recorded in reversed(self.rungs.items()):
            if epoch >= milestone and name not in recorded:
                good = not recorded or rmse <= self._cutoff(recorded)
                recorded[name] = rmse
                return good
        return True

    def _cutoff(self, recorded: dict[str, float]) -> float:
        """The highest RMSE that is good enough in a rung."""
        # Of negated values, as Ray computes it: interpolation rounds in the same way.
        rewards = [-rmse for rmse in recorded.values()]
        return -float(np.percentile(rewards, (1 - self._kept) * 100))
