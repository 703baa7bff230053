"""Ray Tune's callback of a stage: follows each trial from its start to its end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ray.tune import Callback

from crnn_search.errors import CrnnSearchError
from crnn_search.storage.trial import (
    OUT_OF_MEMORY,
    InfeasibleTrial,
    Trial,
    TrialRecord,
    TrialState,
)
from crnn_search.tuning.budget import Limit
from crnn_search.tuning.context import Context
from crnn_search.tuning.epoch_result import EpochResult, ending_state, last_result
from crnn_search.tuning.retries import interruption_of, retry_of
from crnn_search.tuning.stage_log import StageLog
from crnn_search.tuning.tune_trial import TuneTrial, free_memory, granted_to, name_of


class RunCallback(Callback):  # type: ignore[misc]
    """Has a `TrialRecord` for each trial of a stage; the searcher's `StageCallback`, too.

    Ray's default logger callbacks are off: they keep every trial's results in the driver's memory
    (ray#64231) and write hyperparameters to TensorBoard only when a trial ends, without its lists.

    If a file cannot be written, or a trial cannot write its checkpoint, nothing more is recorded
    and `error` is raised at the end of Tune's step, where it ends the stage.

    Tune's trials need the attributes of `TuneTrial` only, so that a stage can run without Ray.
    """

    def __init__(
        self,
        stage: str,
        context: Context,
        records: Iterable[TrialRecord] = (),
        limit: Limit | None = None,
    ) -> None:
        """records: of an earlier session. limit: the budget of the stage."""
        self.records = {record.trial.name: record for record in records}
        context.records[stage] = self.records
        self._log = StageLog(stage, context)
        self._limit = limit
        self._trials: dict[str, TuneTrial] = {}
        self._retried: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks beside each experiment; this one is of the driver alone.
        return {}

    @property
    def error(self) -> CrnnSearchError | None:
        """What ends the stage, or None."""
        return self._log.error

    def raise_error(self) -> None:
        """Raise `error` if there is one."""
        self._log.raise_error()

    # What the searcher calls.

    def on_trial_created(self, trial: Trial) -> None:
        """A trial was created and is about to run."""
        self.records[trial.name] = TrialRecord(trial)
        self._log.created(trial)

    def on_trial_infeasible(self, trial: InfeasibleTrial) -> None:
        """A sample is infeasible."""
        self._log.infeasible(trial)

    def may_start(self) -> bool:
        """Whether another trial may start."""
        return self.error is None and not self.limit_reached()

    def limit_reached(self) -> str | None:
        """Why no trial may start or continue, or None: see `Limit`."""
        return self._limit.reached(self.records.values()) if self._limit else None

    def retry(self, trial_id: str) -> Trial | None:
        """The trial to run again after an error or a lack of memory; None if it has failed."""
        if self.error:
            return None
        interrupted = self._trials[trial_id]
        record, interruption = self._record_of(interrupted), interruption_of(interrupted)
        trial = retry_of(record, interruption, granted_to(interrupted).gpus)
        if trial is not None:
            self._retried.add(trial_id)
            self._log.retried(record, trial, interruption)
        return trial

    # What Tune calls.

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Register the newest trials, also those whose actor never starts."""
        for trial in reversed(trials):
            if trial.trial_id in self._trials:
                break
            self._trials[trial.trial_id] = trial

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial got its actor, for the first time or again."""
        self._log.started(name_of(trial.config))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A step of a trial ended."""
        self._log.step(self._record_of(trial), EpochResult.from_dict(result), granted_to(trial))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial ended by itself, was stopped or ran out of memory."""
        if self._is_retried(trial):
            return
        last = last_result(trial.last_result)
        if last and last.out_of_memory is not None:
            reason = f"{OUT_OF_MEMORY}: {last.out_of_memory}"
            self._log.ended(self._record_of(trial), TrialState.FAIL, reason)
        else:
            self.finish(self._record_of(trial), last.failure if last else None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process died or raised an error."""
        if not self._is_retried(trial):
            reason = str(interruption_of(trial))
            self._log.ended(self._record_of(trial), TrialState.FAIL, reason)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Raise `error`: here, and only here, Tune passes it on."""
        self.raise_error()

    def finish(self, record: TrialRecord, failure: str | None = None) -> None:
        """End a trial that trains no further, in the state that its record implies."""
        failure = failure or record.failure
        failed, max_epochs = failure is not None, record.trial.epochs
        if record.validation_rmse:
            state = ending_state(record.epochs, record.last_rmse, max_epochs, failed=failed)
        else:
            whole = record.epochs >= max_epochs and not failed
            state = TrialState.COMPLETE if whole else TrialState.FAIL
        reason = self.limit_reached() if state == TrialState.PRUNED else failure
        self._log.ended(record, state, reason)

    def _record_of(self, trial: TuneTrial) -> TrialRecord:
        return self.records[name_of(trial.config)]

    def _is_retried(self, trial: TuneTrial) -> bool:
        """Whether an ended trial of Tune's is retried, as another of Tune's; forgets it."""
        self._trials.pop(trial.trial_id, None)
        free_memory(trial)
        retried = trial.trial_id in self._retried
        self._retried.discard(trial.trial_id)
        return retried
