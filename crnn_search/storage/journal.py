"""`journal.jsonl`: what happened to each job of a run, written as it happens, to outlive a crash.

One event a line; each has `event` and `elapsed_s`, the time worked on the run so far, the time
between sessions left out:

    session   a process began to work on the run, on `host`; as `job` of a cluster, or null
    stage     a stage began: `stage` search, finalists, retrain or report
    job       a job was made: `stage`, `job`; it has not trained yet
    epoch     a job ended an epoch: `value` is its validation RMSE, `loss` its training loss, null
              where they are no numbers; `failure` says why it must end
    spent     a job used its resources without a new epoch: one that it repeated, or that failed
    again     a job's process died or its memory ran out, and it is to go on: `cause`, `reason`
    ended     a job ended, in all stages but the search, whose ended trials stand in the ledger

With the ledger it is all that `resume` needs. A `JobRecord` is built from events by `apply`, the
same way while they happen as when they are read again.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crnn_search.errors import StorageError
from crnn_search.storage import jsonl
from crnn_search.storage.jsonl import Record
from crnn_search.storage.retry import patiently
from crnn_search.storage.run_folder import RunPaths
from crnn_search.storage.trial import Job

DIED, OUT_OF_MEMORY, PREEMPTED = "process died", "out of memory", "node taken away"
"""Causes of an `again` event."""

_log = logging.getLogger(__name__)


@dataclass
class JobRecord:
    """What became of one job.

    values: validation RMSE by epoch, None where it was no number. losses: training loss by epoch.
    state: COMPLETE, PRUNED or FAIL, empty while it runs. failure: why it must end, or None.
    seconds: of training, restarts included; core_seconds, gpu_seconds: times what it held.
    checkpoint: of its last sound epoch, relative to the run's folder. again: causes of restarts.
    """

    job: Job
    values: list[float | None] = field(default_factory=list)
    losses: list[float | None] = field(default_factory=list)
    seconds: float = 0.0
    core_seconds: float = 0.0
    gpu_seconds: float = 0.0
    node: str = ""
    device: str = ""
    checkpoint: str | None = None
    failure: str | None = None
    state: str = ""
    reason: str | None = None
    again: list[str] = field(default_factory=list)

    @property
    def epochs(self) -> int:
        """Epochs that are known of it."""
        return len(self.losses)

    @property
    def sound_epochs(self) -> int:
        """Epochs whose state was saved: all, but for one that failed."""
        return self.epochs - (self.failure is not None)

    @property
    def last(self) -> float:
        """Its last validation RMSE.

        Raises:
            ValueError: it has none that is a number.
        """
        if not self.values or self.values[-1] is None:
            raise ValueError(f"{self.job.name} has no last value")
        return self.values[-1]

    def apply(self, event: Record) -> None:
        """Take in an event of this job; one of an epoch that is known already counts as `spent`."""
        kind = event["event"]
        if kind in {"epoch", "spent"}:
            self.seconds += event["seconds"]
            self.core_seconds += event["seconds"] * event["cpus"]
            self.gpu_seconds += event["seconds"] * event["gpus"]
            self.node, self.device = event["node"], event["device"]
        if kind == "epoch":
            self.failure = event["failure"]
            self.losses.append(event["loss"])
            if "value" in event:
                self.values.append(event["value"])
            self.checkpoint = event["checkpoint"] or self.checkpoint
        elif kind == "again":
            self.again.append(event["cause"])
            self.job = Job(**event["job"])
        elif kind == "ended":
            self.state, self.reason = event["state"], event["reason"]

    def ledger_line(self) -> Record:
        """The record as the ledger keeps it."""
        return {
            "number": self.job.number,
            "state": self.state,
            "reason": self.reason,
            "config": self.job.config,
            "values": self.values,
            "node": self.node,
            "device": self.device,
            "seconds": round(self.seconds, 3),
            "core_seconds": round(self.core_seconds, 3),
            "gpu_seconds": round(self.gpu_seconds, 3),
            "seed": self.job.seed,
            "checkpoint": self.checkpoint,
        }


@dataclass(frozen=True)
class History:
    """What journal and ledger tell of a run.

    stages: the records of each stage by job name, in the order the jobs were made.
    seconds: time worked on each stage so far. elapsed_s: on all of them.
    sessions: how many processes have worked on the run.
    """

    stages: dict[str, dict[str, JobRecord]]
    seconds: dict[str, float]
    elapsed_s: float = 0.0
    sessions: int = 0

    def records(self, stage: str) -> dict[str, JobRecord]:
        """The records of a stage by job name; none if it has not begun."""
        return self.stages.get(stage, {})


def read_history(journal: Path, ledger: Path) -> History:
    """Build every record of a run again. Files that are not there yet count as empty.

    Raises:
        InputError: a file cannot be read or was altered.
    """
    events = jsonl.read(journal) if journal.exists() else []
    ended = jsonl.read(ledger) if ledger.exists() else []
    stages: dict[str, dict[str, JobRecord]] = {}
    by_name: dict[str, JobRecord] = {}
    for event in events:
        if event["event"] == "job":
            record = JobRecord(Job(**event["job"]))
            by_name[record.job.name] = record
            stages.setdefault(event["stage"], {})[record.job.name] = record
        elif "name" in event:
            by_name[event["name"]].apply(event)
    for line in ended:
        search = stages.setdefault("search", {})
        name = trial_name(line["number"])
        record = search.setdefault(name, JobRecord(_infeasible_job(line)))
        record.state, record.reason = line["state"], line["reason"]
    return History(
        stages,
        _stage_seconds(events),
        events[-1]["elapsed_s"] if events else 0.0,
        sum(event["event"] == "session" for event in events),
    )


def trial_name(number: int) -> str:
    """The name of a trial of the search."""
    return f"trial-{number:04d}"


def _infeasible_job(line: Record) -> Job:
    """A job that never was: that of a sampled network that cannot be built."""
    return Job(trial_name(line["number"]), line["number"], line["config"], 0, 0, 0, 0, 0)


def _stage_seconds(events: list[Record]) -> dict[str, float]:
    """Time worked on each stage, from the marks of their beginnings."""
    seconds: dict[str, float] = {}
    stage, before = "start", 0.0
    for event in events:
        seconds[stage] = seconds.get(stage, 0.0) + event["elapsed_s"] - before
        before = event["elapsed_s"]
        stage = event["stage"] if event["event"] == "stage" else stage
    return seconds


class Journal:
    """Writes events. Whoever has one holds the run's lease: only one process may write."""

    def __init__(
        self, run: RunPaths, elapsed_s: float = 0.0, warn: Callable[[str], None] = _log.warning
    ) -> None:
        """warn: hears when the run's storage cannot be reached for a while."""
        self.run = run
        self.warn = warn
        self._began = time.monotonic() - elapsed_s

    def begin(self, job: str | None = None) -> None:
        """Write that a session begins. job: its id, if it was submitted to a cluster."""
        self.write("session", host=socket.gethostname(), pid=os.getpid(), job=job)

    @property
    def elapsed_s(self) -> float:
        """Time worked on the run so far."""
        return time.monotonic() - self._began

    def write(self, event: str, **fields: Any) -> Record:
        """Append an event and return it.

        Raises:
            StorageError: the disk is full or the folder cannot be written.
        """
        record = {"event": event, "elapsed_s": round(self.elapsed_s, 3), **fields}
        append(self.run, self.run.journal, record, self.warn)
        return record


def append(
    run: RunPaths, path: Path, record: Record, warn: Callable[[str], None] = _log.warning
) -> None:
    """Add a line to a run's journal or ledger, in the object store first if there is one.

    warn: hears that it waits for a folder that cannot be reached.

    Raises:
        StorageError: the disk is full, or the folder or the store cannot be written.
    """
    if run.mirror:
        run.mirror.append(path, record)
    try:
        patiently(lambda: jsonl.append(path, record), path.parent, warn)
    except OSError as error:
        raise StorageError(path, error) from error


def finite(value: float | None) -> float | None:
    """A number as JSON may hold it: None if it is none."""
    return value if value is not None and math.isfinite(value) else None
