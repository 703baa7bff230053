"""`journal.jsonl`: what happened to each trial of a run, written as it happens, to outlive a crash.

One event a line; each has `event` and `elapsed_s`, the run's working time so far, the time between
sessions left out:

    session   a process started on `host`; `job`: its id on a cluster, or null
    stage     a stage started: `stage` search, finalists, retrain or report
    trial     a trial was created: `stage`, `trial`; it has not trained yet
    epoch     a trial finished an epoch: `validation_rmse` and `train_loss`, null where not finite;
              `failure` says why it must end; `arithmetic` is the one it was trained in
    spent     a trial used its resources without a new epoch: one that it repeated, or that failed
    retry     a trial's process died or its memory ran out, and it will continue: `cause`, `reason`
    ended     a trial ended, in all stages but the search, whose ended trials are in the ledger

With the ledger it is all that `resume` needs.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crnn_search.errors import StorageError
from crnn_search.storage import jsonl, ledger
from crnn_search.storage.checks import ALTERED, altered_line, check_types
from crnn_search.storage.jsonl import Record
from crnn_search.storage.retry import OnRetry, with_retries
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import InfeasibleTrial, Trial, TrialRecord
from crnn_search.text import shown

SEARCH = "search"
"""The stage whose ended trials are in the ledger."""

TRIAL_EVENTS = ("epoch", "spent", "retry", "ended")
"""Events of a trial that was created before."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class History:
    """The state of a run, from its journal and ledger.

    stages: the records of each stage by trial name, in the order the trials were created.
    infeasible: sampled configurations of the search that could not be built.
    seconds: working time of each stage so far. elapsed_s: of all of them.
    sessions: how many processes have run it, one after another.
    """

    stages: dict[str, dict[str, TrialRecord]] = field(default_factory=dict)
    infeasible: list[InfeasibleTrial] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    elapsed_s: float = 0.0
    sessions: int = 0

    def records(self, stage: str) -> dict[str, TrialRecord]:
        """The records of a stage by trial name; empty if it has not started."""
        return self.stages.get(stage, {})


def read_history(journal: Path, ledger_path: Path) -> History:
    """Rebuild every record of a run. Files that do not exist yet count as empty.

    Raises:
        InputError: a file cannot be read or was altered; names the file and the line.
    """
    events = jsonl.read(journal) if journal.exists() else []
    stages: dict[str, dict[str, TrialRecord]] = {}
    by_name: dict[str, TrialRecord] = {}
    for number, event in enumerate(events, start=1):
        try:
            _apply(event, stages, by_name)
        except ALTERED as error:
            raise altered_line(journal, number, "an event", error) from error
    ended = ledger.read(ledger_path) if ledger_path.exists() else ledger.Ledger()
    for record in ended.trials:
        search = stages.setdefault(SEARCH, {})
        known = search.setdefault(record.trial.name, record)
        known.state, known.reason = record.state, record.reason
    return History(
        stages,
        ended.infeasible,
        _stage_seconds(events),
        events[-1]["elapsed_s"] if events else 0.0,
        sum(event["event"] == "session" for event in events),
    )


def _apply(
    event: Record, stages: dict[str, dict[str, TrialRecord]], by_name: dict[str, TrialRecord]
) -> None:
    """Update all records by one event. Raises one of `ALTERED` if it is not valid."""
    kind = event["event"]
    check_types(event, {"elapsed_s": "float", "stage": "str", "name": "str"})
    if event["elapsed_s"] < 0:
        raise ValueError(f"elapsed_s must not be negative, got {event['elapsed_s']}")
    if kind == "trial":
        record = TrialRecord(Trial.from_dict(event["trial"]))
        by_name[record.trial.name] = record
        stages.setdefault(event["stage"], {})[record.trial.name] = record
    elif kind in TRIAL_EVENTS:
        if event["name"] not in by_name:
            raise ValueError(f"no earlier line has the trial {shown(event['name'])}")
        by_name[event["name"]].apply(event)
    elif kind == "stage":
        _ = event["stage"]  # must be there for `_stage_seconds`
    elif kind != "session":
        raise ValueError(f"unknown event {shown(kind)}")


def _stage_seconds(events: list[Record]) -> dict[str, float]:
    """Working time of each stage, from the events of their start."""
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
        self, run: RunFolder, elapsed_s: float = 0.0, on_retry: OnRetry = _log.warning
    ) -> None:
        """on_retry: called with a message while the run's storage cannot be reached."""
        self.run = run
        self.on_retry = on_retry
        self._start = time.monotonic() - elapsed_s

    def start_session(self, job: str | None = None) -> None:
        """Write that a session starts. job: its id, if it was submitted to a cluster."""
        self.write("session", host=socket.gethostname(), pid=os.getpid(), job=job)

    @property
    def elapsed_s(self) -> float:
        """Working time of the run so far."""
        return time.monotonic() - self._start

    def write(self, event: str, **fields: Any) -> Record:
        """Append an event and return it.

        Raises:
            StorageError: the disk is full or the folder cannot be written.
        """
        record = {"event": event, "elapsed_s": round(self.elapsed_s, 3), **fields}
        append(self.run, self.run.journal, record, self.on_retry)
        return record

    def write_ended(self, record: TrialRecord | InfeasibleTrial) -> None:
        """Append a line to the ledger. Raises as `write` does."""
        append(self.run, self.run.ledger, record.to_dict(), self.on_retry)


def append(run: RunFolder, path: Path, record: Record, on_retry: OnRetry = _log.warning) -> None:
    """Add a line to a run's journal or ledger, in the object store first if there is one.

    on_retry: called with a message while the storage cannot be reached.

    Raises:
        StorageError: the disk is full, or the folder or the store cannot be written.
    """
    if run.mirror:
        run.mirror.append(path, record)
    try:
        with_retries(lambda: jsonl.append(path, record), path.parent, on_retry)
    except OSError as error:
        raise StorageError(path, error) from error
