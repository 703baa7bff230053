"""All that a stage writes while its trials run: journal, ledger, TensorBoard, display."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from crnn_search.errors import CrnnSearchError, RunError, StorageError
from crnn_search.storage.journal import SEARCH
from crnn_search.storage.jsonl import Record
from crnn_search.storage.ledger import rmse_words, state_words
from crnn_search.storage.location import join
from crnn_search.storage.trial import (
    METRIC,
    InfeasibleTrial,
    Trial,
    TrialRecord,
    TrialState,
    finite,
    trial_name,
)
from crnn_search.text import compact, duration
from crnn_search.tuning.checkpoints import CheckpointFolder, best_epoch
from crnn_search.tuning.context import Context
from crnn_search.tuning.epoch_result import EpochResult
from crnn_search.tuning.retries import Interruption
from crnn_search.tuning.tensorboard import TensorBoard
from crnn_search.tuning.tune_trial import Granted

logger = logging.getLogger("crnn_search")


class StageLog:
    """Writes each event to the disk, then applies it to its trial's record; and a line of the log.

    error: the first file that could not be written, or checkpoint that a trial could not write.
    Nothing more is written after it. It is not raised here: Tune would only log it.
    """

    def __init__(self, stage: str, context: Context) -> None:
        self.error: CrnnSearchError | None = None
        self._stage = stage
        self._run = context.run
        self._journal = context.journal
        self._progress = context.progress
        self._time_left = context.time_left
        self._searched = context.space.searched
        self._on_trial_end = context.on_trial_end
        self._on_search_change = context.on_search_change
        self._tensorboard = TensorBoard(
            context.run.tensorboard / stage, context.space, context.task, context.progress.note
        )
        self._other_arithmetics: set[tuple[str, str]] = set()

    def raise_error(self) -> None:
        """Raise `error` if there is one."""
        if self.error:
            raise self.error

    def created(self, trial: Trial) -> None:
        """A trial was created and is about to run."""
        self._write("trial", stage=self._stage, trial=trial.to_dict())
        values = trial.config.to_dict()
        shown = ", ".join(f"{name} {compact(values[name])}" for name in self._searched)
        logger.info("%s: created, %s", trial.name, shown or "nothing is searched")
        self._changed(TrialRecord(trial))

    def infeasible(self, trial: InfeasibleTrial) -> None:
        """A sample is infeasible."""
        self._write_ended(trial)
        logger.info("%s: infeasible, %s", trial_name(trial.number), trial.reason)
        if not self.error:
            self._on_trial_end(self._stage, trial)
            self._changed(trial)

    def started(self, name: str) -> None:
        """A trial got its actor, for the first time or again."""
        logger.info("%s: runs", name)
        self._progress.started(name)

    def step(self, record: TrialRecord, step: EpochResult, granted: Granted) -> None:
        """A step of a trial ended, with a new epoch or without."""
        self._report(record, step)
        if step.storage_error is not None:
            self._stop(RunError(step.storage_error))
        usage: dict[str, Any] = {
            "name": record.trial.name,
            "seconds": round(step.seconds, 3),
            "cpus": granted.cpus,
            "gpus": granted.gpus,
            "node": step.node,
            "device": step.device,
            "arithmetic": step.arithmetic,
        }
        if step.metrics is None or step.epoch <= record.epochs:
            if not step.restored:
                record.apply(self._write("spent", **usage))
            return
        event: dict[str, Any] = {
            "epoch": step.epoch,
            "train_loss": finite(step.metrics.train_loss),
            "failure": step.failure,
            "checkpoint": None,
        }
        if step.metrics.validation_rmse is not None:
            event[METRIC] = finite(step.metrics.validation_rmse)
        if step.checkpoint is not None:
            event["checkpoint"] = f"{self._run.checkpoints.name}/{step.checkpoint}"
        record.apply(self._write("epoch", **usage, **event))
        self._changed(record)
        self._tensorboard.write(record.trial, step.metrics, step.running)
        if self._time_left:
            self._time_left.measure(record.trial, step.metrics)
        logger.info(
            "%s: epoch %d of %d, %s, %s on %s",
            record.trial.name,
            step.epoch,
            record.trial.epochs,
            rmse_words(record),
            duration(step.seconds),
            step.node,
        )
        self._progress.epoch(record.trial.name)

    def retried(self, record: TrialRecord, trial: Trial, interruption: Interruption) -> None:
        """A trial will run again. trial: with what it gets then."""
        event = self._write(
            "retry",
            name=trial.name,
            cause=interruption.cause,
            reason=interruption.reason,
            trial=trial.to_dict(),
        )
        record.apply(event)
        self._progress.note(f"{trial.name}: {interruption}; it continues from its last checkpoint")

    def ended(self, record: TrialRecord, state: TrialState, reason: str | None) -> None:
        """A trial ended: only its last and its best checkpoint are kept."""
        if self._stage == SEARCH:
            self._write_ended(dataclasses.replace(record, state=state, reason=reason))
        else:
            self._write("ended", name=record.trial.name, state=state, reason=reason)
        if self.error:
            return
        record.apply({"event": "ended", "state": state, "reason": reason})
        self._changed(record)
        self._tensorboard.ended(record)
        try:
            with self._run.changes():
                folder = CheckpointFolder(join(self._run.checkpoint_location, record.trial.name))
                folder.keep({record.saved_epochs, best_epoch(record.validation_rmse)})
        except StorageError as error:
            self._stop(error)
        why = f": {reason}" if reason else ""
        logger.info(
            "%s: %s after epoch %d%s", record.trial.name, state_words(record), record.epochs, why
        )
        self._progress.ended(record.trial.name)
        self._on_trial_end(self._stage, record)

    def _changed(self, trial: TrialRecord | InfeasibleTrial) -> None:
        if self._stage == SEARCH and not self.error:
            self._on_search_change(trial)

    def _report(self, record: TrialRecord, step: EpochResult) -> None:
        """Show a step's notes, and what else the user should know of it."""
        trial, notes = record.trial, list(step.notes)
        if step.metrics and step.epoch == 1 and record.epochs and not step.restored:
            notes.append("its checkpoint is gone; it is trained again from the start")
        other = (step.node, step.arithmetic)
        if step.arithmetic != str(trial.arithmetic) and other not in self._other_arithmetics:
            self._other_arithmetics.add(other)
            notes.append(
                f"{step.node} computes in {step.arithmetic}, not in {trial.arithmetic} as this run"
            )
        for note in notes:
            self._progress.note(f"{trial.name}: {note}")

    def _write(self, event: str, **fields: Any) -> Record:
        """Write an event to the journal, unless writing failed before; returns it."""
        if self.error is None:
            try:
                return self._journal.write(event, **fields)
            except StorageError as error:
                self._stop(error)
        return {"event": event, **fields}

    def _write_ended(self, trial: TrialRecord | InfeasibleTrial) -> None:
        """Write a line of the ledger, unless writing failed before."""
        if self.error is None:
            try:
                self._journal.write_ended(trial)
            except StorageError as error:
                self._stop(error)

    def _stop(self, error: CrnnSearchError) -> None:
        self.error = self.error or error
