"""`journal.jsonl`: what happened to each trial of a run, written as it happens, to outlive a crash.

One event a line; each has `event` and `elapsed_s`, the run's working time so far, the time between
sessions left out:

    session     a process started on `host` at the time `started`; `job`: its id on a cluster, or
                null
    stage       a stage started: `stage` search, finalists, retrain or report
    trial       a trial was created: `stage`, `trial`; it has not trained yet
    epoch       a trial finished an epoch: `validation_rmse` and `train_loss`, null where not
                finite; `failure` says why it must end; `arithmetic` is the one it was trained in
    spent       a trial used its resources without a new epoch: one that it repeated, or that failed
    retry       a trial's process died or its memory ran out, and it will continue: `cause`,
                `reason`
    ended       a trial ended: `state`, `reason`
    infeasible  a sample cannot be trained: `number`, `config`, `reason`
    extension   trials were added to the search: `trials` that it has then, the new `budget`, and
                the `report` so far, or null

It is all that `resume` needs. The ledger has the ended trials of the search once more, for people;
`storage.cross_check` compares the two.
"""

from __future__ import annotations

import datetime
import itertools
import logging
import os
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crnn_search.errors import StorageError
from crnn_search.storage import jsonl, ledger
from crnn_search.storage.checks import ALTERED, altered_line, check_bounds, check_types
from crnn_search.storage.cross_check import Ended, Search, cross_check
from crnn_search.storage.jsonl import Record
from crnn_search.storage.ledger import Ledger
from crnn_search.storage.retry import OnRetry, with_retries
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import InfeasibleTrial, Trial, TrialRecord, trial_name
from crnn_search.text import shown

SEARCH = "search"
"""The stage whose ended trials are in the ledger, too."""

STAGES = (SEARCH, "finalists", "retrain", "report")
"""The stages of a run, in order. The first three train."""

TRIAL_EVENTS = ("epoch", "spent", "retry", "ended")
"""Events of a trial that was created before."""

_TYPES = {
    "elapsed_s": "float", "stage": "str", "name": "str", "trial": "dict[str, Any]",
    "trials": "int", "budget": "dict[str, Any]", "report": "dict[str, Any] | None",
}  # fmt: skip
"""Types of the values in an event."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class History:
    """The state of a run, from its journal and ledger.

    stages: the records of each stage by trial name, in the order the trials were created.
    infeasible: samples of the search that cannot be trained.
    stage: the last that started; the search if it was extended since.
    extension: the last event of that kind.
    seconds: working time of each stage so far. elapsed_s: of all of them.
    sessions: how many processes have run it, one after another.
    unlisted: ended trials of the search that the ledger lacks, in the order of their end.
    notes: what the journal or the ledger lacks, and was taken from the other.
    """

    stages: dict[str, dict[str, TrialRecord]] = field(default_factory=dict)
    infeasible: list[InfeasibleTrial] = field(default_factory=list)
    stage: str = SEARCH
    extension: Record | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    elapsed_s: float = 0.0
    sessions: int = 0
    unlisted: list[Ended] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def records(self, stage: str) -> dict[str, TrialRecord]:
        """The records of a stage by trial name; empty if it has not started."""
        return self.stages.get(stage, {})

    def ended(self) -> Ledger:
        """The ended trials of the search by number, as a whole ledger has them."""
        trials = [record for record in self.records(SEARCH).values() if record.ended]
        return Ledger(sorted(trials, key=lambda record: record.trial.number), self.infeasible)


def read_history(journal: Path, ledger_path: Path) -> History:
    """Rebuild every record of a run. Files that do not exist yet count as empty.

    Raises:
        InputError: a file cannot be read or was altered, or the two contradict each other; names
            the file and the line.
    """
    # The ledger first: of a run that is running, the journal is then at least as new.
    listed = ledger.read(ledger_path) if ledger_path.exists() else Ledger()
    events = jsonl.read(journal) if journal.exists() else []
    replay = _Replay()
    for number, event in enumerate(events, start=1):
        try:
            replay.apply(event)
        except ALTERED as error:
            raise altered_line(journal, number, "an event", error) from error
    search = Search(replay.search, replay.infeasible, replay.ended)
    cross_check(journal, ledger_path, search, listed)
    if search.trials:
        records = search.trials.values()
        replay.stages[SEARCH] = {record.trial.name: record for record in records}
    return History(
        replay.stages,
        sorted(search.infeasible.values(), key=lambda trial: trial.number),
        replay.stage,
        replay.extension,
        _stage_seconds(events),
        events[-1]["elapsed_s"] if events else 0.0,
        sum(event["event"] == "session" for event in events),
        search.unlisted,
        search.notes,
    )


class _Replay:
    """Applies the events of a journal in order; each method raises one of `ALTERED`."""

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, TrialRecord]] = {}
        self.infeasible: dict[int, InfeasibleTrial] = {}
        self.ended: list[Ended] = []
        self.stage = SEARCH
        self.extension: Record | None = None
        self._by_name: dict[str, TrialRecord] = {}
        self._last: Record = {"elapsed_s": 0.0}

    @property
    def search(self) -> dict[int, TrialRecord]:
        """The trials of the search by number."""
        records = self.stages.get(SEARCH, {}).values()
        return {record.trial.number: record for record in records}

    def apply(self, event: Record) -> None:
        """Update all records by one event."""
        kind = event["event"]
        check_types(event, _TYPES)
        check_bounds(event, {"elapsed_s": (0, 1e12)})
        if event == self._last:
            raise ValueError("it repeats the line before")
        if event["elapsed_s"] < self._last["elapsed_s"]:
            raise ValueError(
                f"elapsed_s must be at least that of the line before, "
                f"{self._last['elapsed_s']}, got {event['elapsed_s']}"
            )
        self._last = event
        if kind == "trial":
            self._create(event)
        elif kind in TRIAL_EVENTS:
            self._update(event)
        elif kind == "infeasible":
            trial = InfeasibleTrial.from_dict(event)
            if trial.number in self.infeasible:
                raise ValueError(f"an earlier line has {trial_name(trial.number)}, too")
            self.infeasible[trial.number] = trial
            self.ended.append(trial)
        elif kind == "stage":
            self.stage = _known_stage(event)
        elif kind == "extension":
            self._extend(event)
        elif kind != "session":
            raise ValueError(f"unknown event {shown(kind)}")

    def _create(self, event: Record) -> None:
        record, stage = TrialRecord(Trial.from_dict(event["trial"])), _known_stage(event)
        name = record.trial.name
        if stage == SEARCH:
            if name != trial_name(record.trial.number):
                raise ValueError(f"name must be {trial_name(record.trial.number)}, got {name}")
            if name in self._by_name:
                raise ValueError(f"an earlier line has created {name}")
        self._by_name[name] = record
        self.stages.setdefault(stage, {})[name] = record

    def _update(self, event: Record) -> None:
        if event["name"] not in self._by_name:
            raise ValueError(f"no earlier line has the trial {shown(event['name'])}")
        record = self._by_name[event["name"]]
        if record.ended:
            raise ValueError(f"{record.trial.name} had ended before")
        before = record.trial
        record.apply(event)
        if not record.trial.same_training(before):
            raise ValueError(f"{before.name} must be trained as it was created")
        if event["event"] == "epoch":
            check_types(event, {"epoch": "int"})
            if event["epoch"] != record.epochs:
                raise ValueError(f"epoch must be {record.epochs}, got {event['epoch']}")
        if event["event"] == "ended":
            record.check()
            if self.stages.get(SEARCH, {}).get(record.trial.name) is record:
                self.ended.append(record)

    def _extend(self, event: Record) -> None:
        limits = event["budget"]
        for part in ("limits", "before"):
            names = ("time_s", "core_seconds", "gpu_seconds")
            amounts = {name: limits[part][name] for name in names}
            check_types(amounts, dict.fromkeys(names, "float | None"))
            check_bounds(amounts, dict.fromkeys(names, (0, 1e12)))
        check_bounds({"trials": event["trials"]}, {"trials": (1, 2**53)})
        if event["report"] is not None:
            check_types({name: event["report"][name] for name in REPORT_TYPES}, REPORT_TYPES)
        self.stage, self.extension = SEARCH, event


REPORT_TYPES = {"rmse": "float", "rmse_interval": "list[float] | None", "trials": "int"}
"""What an extension keeps of a report."""


def _known_stage(event: Record) -> str:
    stage: str = event["stage"]
    if stage not in STAGES:
        raise ValueError(f"stage must be one of {', '.join(STAGES)}, got {shown(stage)}")
    return stage


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
        started = datetime.datetime.now(datetime.UTC).isoformat()
        self.write("session", host=socket.gethostname(), pid=os.getpid(), started=started, job=job)

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

    def write_ended(self, ended: Ended) -> None:
        """Write that a trial of the search ended: to the journal, then as a line of the ledger.

        Raises as `write` does.
        """
        line = ended.to_dict()
        if isinstance(ended, InfeasibleTrial):
            own = {name: line[name] for name in ("number", "config", "reason")}
            self.write("infeasible", **own)
        else:
            self.write("ended", name=ended.trial.name, state=ended.state, reason=ended.reason)
        append(self.run, self.run.ledger, line, self.on_retry)


def append(run: RunFolder, path: Path, record: Record, on_retry: OnRetry = _log.warning) -> None:
    """Add a line to a run's journal or ledger, in the object store first if there is one.

    on_retry: called with a message while the storage cannot be reached.

    Raises:
        StorageError: the disk is full, or the folder or the store cannot be written.
    """
    if run.mirror:
        run.mirror.append(path, record)
    attempts = itertools.chain([jsonl.append], itertools.repeat(jsonl.append_again))
    try:
        with_retries(lambda: next(attempts)(path, record), path.parent, on_retry)
    except OSError as error:
        raise StorageError(path, error) from error
