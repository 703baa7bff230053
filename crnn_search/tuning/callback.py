"""Ray Tune's callback: what happens to a job goes to journal, ledger, TensorBoard and display."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ray.exceptions
from ray import cloudpickle
from ray.tune import Callback
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from crnn_search.errors import CrnnSearchError, RunError, StorageError
from crnn_search.storage import ledger
from crnn_search.storage.journal import Journal, append
from crnn_search.storage.jsonl import Record
from crnn_search.storage.object_store import join
from crnn_search.storage.run_folder import RunPaths
from crnn_search.storage.trial import (
    DIED,
    METRIC,
    OUT_OF_MEMORY,
    PREEMPTED,
    Job,
    JobRecord,
    finite,
    trial_name,
)
from crnn_search.text import first_line
from crnn_search.tuning.budget import Limit
from crnn_search.tuning.checkpoints import CheckpointFolder, best_epoch
from crnn_search.tuning.progress import Progress
from crnn_search.tuning.searcher import Bookkeeper, ending_state

SCALARS = (
    METRIC, "exact_sum_rate", "train_loss", "learning_rate", "sequences_per_s", "peak_memory_mb",
)  # fmt: skip

MAX_AGAIN = {OUT_OF_MEMORY: 1, DIED: 3, PREEMPTED: math.inf}
"""How often a job is begun again, by cause. A spot node that is taken away is no fault of it."""


class Recorder(Callback, Bookkeeper):  # type: ignore[misc]
    """Keeps the books of one stage: a `JobRecord` for each job, on the disk before it counts.

    Ray's default logger callbacks are off in its favour: they keep every trial's results in the
    driver's memory (ray#64231) and write hyperparameters to TensorBoard only when a trial ends,
    without its lists.

    If a file cannot be written, or a trial cannot write its checkpoint, nothing is recorded from
    then on and `error` is raised at the end of Tune's step, where it ends the stage: what Tune
    calls from elsewhere may not raise.
    """

    def __init__(
        self,
        stage: str,
        run: RunPaths,
        journal: Journal,
        progress: Progress,
        records: Iterable[JobRecord] = (),
        limit: Limit | None = None,
    ) -> None:
        """records: of an earlier session. limit: when no trial may begin or go on any more."""
        self.records = {record.job.name: record for record in records}
        self.error: CrnnSearchError | None = None
        self._stage = stage
        self._run = run
        self._journal = journal
        self._progress = progress
        self._limit = limit
        self._trials: dict[str, Any] = {}
        self._verdicts: dict[str, Job | None] = {}
        self._writers: dict[str, SummaryWriter] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks beside each experiment; this one is of the driver alone.
        return {}

    # What the searcher tells and asks.

    def made(self, job: Job) -> None:
        """A job was made and is about to run."""
        self.records[job.name] = JobRecord(job)
        self._write("job", stage=self._stage, job=job.to_dict())

    def infeasible(self, number: int, config: dict[str, Any], reason: str) -> None:
        """A sampled network is impossible; it never ran."""
        job = Job(trial_name(number), number, config, 0, 0, 0, 0, 0)
        self._append(JobRecord(job, state="FAIL", reason=ledger.INFEASIBLE + reason))

    def may_begin(self) -> bool:
        """Whether the budget lets another trial begin."""
        return self.error is None and not self.limit_reached()

    def limit_reached(self) -> str | None:
        """Why the budget lets no trial begin or go on, or None."""
        return self._limit.reached(self.records.values()) if self._limit else None

    def again(self, trial_id: str) -> Job | None:
        """The job to run again, after a death of its process or lack of memory; else None.

        Lack of memory is forgiven once, with twice the share of a GPU; a death three times, that of
        a spot node always.
        """
        if trial_id not in self._verdicts:
            self._verdicts[trial_id] = self._judge(self._trials[trial_id])
        return self._verdicts[trial_id]

    # What Tune calls.

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Know the newest trials, also those whose actor never starts."""
        for trial in reversed(trials):
            if trial.trial_id in self._trials:
                break
            self._trials[trial.trial_id] = trial

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A job got its actor, for the first time or again."""
        self._progress.started(_name(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch ended, or did not come to its end."""
        record = self.records[_name(trial)]
        for note in result["notes"]:
            self._progress.note(f"{record.job.name}: {note}")
        if "storage" in result:
            self._stop(RunError(result["storage"]))
        used = _used(trial, result)
        epoch = result["epoch"]
        if "train_loss" not in result or epoch <= record.epochs:
            if epoch == 1 and "train_loss" in result and not result["restored"]:
                self._progress.note(
                    f"{record.job.name}: its checkpoint is gone; it is trained again from the start"
                )
            if not result["restored"]:
                record.apply(self._write("spent", name=record.job.name, **used))
            return
        event = {
            "epoch": epoch,
            "loss": finite(result["train_loss"]),
            "failure": result.get("failure"),
            "checkpoint": None,
        }
        if METRIC in result:
            event["value"] = finite(result[METRIC])
        if "checkpoint" in result:
            event["checkpoint"] = f"{self._run.checkpoints.name}/{result['checkpoint']}"
        record.apply(self._write("epoch", name=record.job.name, **used, **event))
        self._write_scalars(record, epoch, result)
        self._progress.epoch(record.job.name, epoch, result.get(METRIC), result["train_loss"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A job ended by itself or was stopped, or comes back."""
        record, result = self.records[_name(trial)], trial.last_result or {}
        again = self._forget(trial)
        if again is not None:
            return
        if "out_of_memory" in result:
            self.end(record, "FAIL", f"{OUT_OF_MEMORY}: {result['out_of_memory']}")
        else:
            self.settle(record, result.get("failure"))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A job's process died; it comes back or has failed for good."""
        if self._forget(trial) is None:
            cause, text = _cause(trial)
            self.end(self.records[_name(trial)], "FAIL", f"{cause}: {text}" if cause else text)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """The place where an error of the run itself may be raised."""
        self.raise_error()

    # How a job ends.

    def raise_error(self) -> None:
        """Raise `error` if there is one."""
        if self.error:
            raise self.error

    def settle(self, record: JobRecord, failure: str | None = None) -> None:
        """End a job that trains no more by what is known of it."""
        failure = failure or record.failure
        if record.values:
            value = record.values[-1]
            last = {"epoch": record.epochs, METRIC: float("nan") if value is None else value}
            state = ending_state(last, record.job.epochs, error=failure is not None).name
        else:
            whole = record.epochs >= record.job.epochs and failure is None
            state = "COMPLETE" if whole else "FAIL"
        if state == "PRUNED":
            failure = self.limit_reached()
        self.end(record, state, failure)

    def end(self, record: JobRecord, state: str, reason: str | None) -> None:
        """Write down how a job ended."""
        ended: Record = {"event": "ended", "state": state, "reason": reason}
        if self._stage == "search":
            self._append(dataclasses.replace(record, state=state, reason=reason))
        else:
            self._write("ended", name=record.job.name, state=state, reason=reason)
        if self.error:
            return
        record.apply(ended)
        writer = self._writers.pop(record.job.name, None)
        if writer:
            writer.close()
        folder = CheckpointFolder(join(self._run.checkpoint_location, record.job.name))
        try:
            folder.keep({record.sound_epochs, best_epoch(record.values)})
            self._run.push()
        except StorageError as trouble:
            self._stop(trouble)
        self._progress.ended(record.job.name, state, reason)

    def _forget(self, trial: Any) -> Job | None:
        """Let go of a trial of Tune's, which itself never does; the verdict if there was one."""
        self._trials.pop(trial.trial_id, None)
        trial.run_metadata.metric_analysis = {}  # averages of all it reported: most of its memory
        trial.run_metadata.metric_n_steps = {}
        return self._verdicts.pop(trial.trial_id, None)

    def _append(self, record: JobRecord) -> None:
        """Write a line to the ledger, unless the run cannot be written any more."""
        if self.error is None:
            try:
                append(self._run, self._run.ledger, record.ledger_line(), self._journal.warn)
            except StorageError as error:
                self._stop(error)

    def _judge(self, trial: Any) -> Job | None:
        record = self.records[_name(trial)]
        cause, text = _cause(trial)
        if self.error or record.again.count(cause) >= MAX_AGAIN.get(cause, 0):
            return None
        gpus = float(trial.placement_group_factory.required_resources.get("GPU", 0))
        job = record.job
        if cause == OUT_OF_MEMORY and gpus:
            job = dataclasses.replace(job, gpus=min(1.0, 2 * gpus) if gpus < 1 else gpus)
        name = record.job.name
        record.apply(self._write("again", name=name, cause=cause, reason=text, job=job.to_dict()))
        self._progress.note(f"{name}: {cause}: {text}; it goes on from its last checkpoint")
        return job

    def _write(self, event: str, **fields: Any) -> Record:
        """Write an event to the journal, unless the run cannot be written any more."""
        if self.error is None:
            try:
                return self._journal.write(event, **fields)
            except StorageError as error:
                self._stop(error)
        return {"event": event, **fields}

    def _stop(self, error: CrnnSearchError) -> None:
        self.error = self.error or error

    def _write_scalars(self, record: JobRecord, epoch: int, result: dict[str, Any]) -> None:
        job = record.job
        if job.name not in self._writers:
            folder = str(self._run.tensorboard / self._stage / job.name)
            self._writers[job.name] = writer = SummaryWriter(folder)
            if epoch == 1:
                for summary in hparams(_hyperparameters(job.config), {METRIC: 0.0}):
                    writer._get_file_writer().add_summary(summary)
        for name in SCALARS:
            if name in result:
                self._writers[job.name].add_scalar(name, result[name], epoch)
        self._writers[job.name].flush()  # a crash loses nothing that was seen


def _hyperparameters(config: dict[str, Any]) -> dict[str, Any]:
    """TensorBoard takes numbers, strings and booleans: lists become text and their lengths."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, list):
            flat[name] = "-".join(map(str, value))
            flat[f"{name}.length"] = len(value)
        else:
            flat[name] = value
    return flat


def _name(trial: Any) -> str:
    return str(trial.config["job"]["name"])


def _used(trial: Any, result: dict[str, Any]) -> dict[str, Any]:
    """What an epoch used, and where."""
    granted = trial.placement_group_factory.required_resources
    return {
        "seconds": round(result["seconds"], 3),
        "cpus": float(granted.get("CPU", 0)),
        "gpus": float(granted.get("GPU", 0)),
        "node": result["hostname"],
        "device": result["device"],
    }


def _cause(trial: Any) -> tuple[str, str]:
    """Why a trial's process or memory failed it, and the details; no cause if its code did.

    Ray keeps the error in the trial's folder: pickled by this process if it came from the trial's
    process or from its death, else, as for a node that ran out of memory, its text alone.
    """
    if trial.error_file is None:
        return OUT_OF_MEMORY, (trial.last_result or {})["out_of_memory"]
    if trial.pickled_error_file is None:
        text = first_line(Path(trial.error_file).read_text().partition("\n")[2])
        return (OUT_OF_MEMORY if "memory" in text else DIED), text
    error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    if isinstance(error, ray.exceptions.RayTaskError):
        error = error.cause
        text = f"{type(error).__name__}: {first_line(error)}"
        return (DIED if type(error).__name__ == "AcceleratorError" else ""), text
    if getattr(error, "preempted", False):
        return PREEMPTED, first_line(error)
    return DIED, first_line(error)
