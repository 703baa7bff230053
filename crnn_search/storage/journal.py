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
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crnn_search.errors import StorageError
from crnn_search.storage import jsonl
from crnn_search.storage.jsonl import Record
from crnn_search.storage.retry import patiently
from crnn_search.storage.run_folder import RunPaths
from crnn_search.storage.trial import Job, JobRecord, _infeasible_job, trial_name

_log = logging.getLogger(__name__)


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
