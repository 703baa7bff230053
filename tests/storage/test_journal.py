from __future__ import annotations

import copy
import errno
import json
import math
import os
import socket
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crnn_search.errors import InputError, StorageError
from crnn_search.storage import jsonl, ledger
from crnn_search.storage.journal import SEARCH, History, Journal, read_history
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import DIED, InfeasibleTrial, TrialRecord, TrialState, trial_name
from tests.storage import examples
from tests.storage.examples import USAGE, epoch_event, new_trial

SPENT: dict[str, Any] = {"event": "spent", "name": trial_name(0), **USAGE}
RETRY = {"event": "retry", "name": trial_name(0), "cause": DIED, "reason": "killed"}
ENDED = {"event": "ended", "name": trial_name(0), "state": "FAIL", "reason": None}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def history_of(run: RunFolder) -> History:
    return read_history(run.journal, run.ledger)


def write(log: Journal, event: dict[str, Any]) -> None:
    log.write(**event)


def test_files_that_do_not_exist_are_an_empty_history(run: RunFolder) -> None:
    assert history_of(run) == History()
    assert history_of(run).records(SEARCH) == {}


@given(
    events=st.lists(
        examples.epoch_events
        | st.just(SPENT)
        | st.builds(
            lambda trial: RETRY | {"trial": trial.to_dict()},
            st.floats(0.1, 1).map(lambda gpus: new_trial(gpus=gpus)),
        ),
        max_size=8,
    ),
    ended=st.booleans(),
)
def test_a_record_is_read_as_its_events_made_it(
    events: list[dict[str, Any]], ended: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = RunFolder(tmp_path_factory.mktemp("run"))
    clock = iter(range(99))
    with mock.patch("time.monotonic", side_effect=lambda: float(next(clock))):
        log, record = Journal(run), TrialRecord(new_trial())
        log.write("trial", stage=SEARCH, trial=new_trial().to_dict())
        for event in copy.deepcopy([*events, *([ENDED] if ended else [])])[-4:]:
            if event["event"] == "epoch":
                event["epoch"] = record.epochs + 1
            record.apply(log.write(**event))
    assert history_of(run).records(SEARCH) == {trial_name(0): record}


def test_records_are_in_the_stages_and_in_the_order_of_their_creation(run: RunFolder) -> None:
    log = Journal(run)
    for stage, numbers in ((SEARCH, [1, 0]), ("finalists", [2])):
        log.write("stage", stage=stage)
        for number in numbers:
            log.write("trial", stage=stage, trial=new_trial(number).to_dict())
    write(log, epoch_event(trial_name(0), 1))
    history = history_of(run)
    assert list(history.records(SEARCH)) == [trial_name(1), trial_name(0)]
    assert list(history.records("finalists")) == [trial_name(2)]
    assert history.records(SEARCH)[trial_name(0)].epochs == 1
    assert history.records(SEARCH)[trial_name(1)].epochs == 0


def test_the_ledger_ends_trials_of_the_search(run: RunFolder) -> None:
    log = Journal(run)
    log.write("trial", stage=SEARCH, trial=new_trial(0).to_dict())
    record = history_of(run).records(SEARCH)[trial_name(0)]
    record.apply(log.write(**epoch_event(trial_name(0), 1)))
    record.apply(log.write(**SPENT))
    record.state, record.reason = TrialState.PRUNED, "rung 1"
    log.write_ended(record)
    log.write_ended(InfeasibleTrial(1, {"pooling": 4}, "no pixels"))
    history = history_of(run)
    (pruned,) = history.records(SEARCH).values()
    assert (pruned.state, pruned.reason, pruned.seconds) == (TrialState.PRUNED, "rung 1", 4.0)
    assert history.infeasible == [InfeasibleTrial(1, {"pooling": 4}, "no pixels")]
    assert history.ended() == ledger.read(run.ledger)
    assert (history.unlisted, history.notes) == ([], [])


def test_working_time_continues_in_the_next_session(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    log = Journal(run)
    log.start_session()
    for seconds, stage in ((1, SEARCH), (10, "finalists")):
        clock[0] += seconds
        log.write("stage", stage=stage)
    clock[0] = 5000.0  # another process, on another machine
    log = Journal(run, history_of(run).elapsed_s)
    log.start_session(job="raysubmit_1")
    clock[0] += 4
    log.write("stage", stage="retrain")
    history = history_of(run)
    assert history.sessions == 2
    assert history.elapsed_s == 15
    assert history.seconds == {"start": 1, SEARCH: 10, "finalists": 4}
    sessions = [event for event in jsonl.read(run.journal) if event["event"] == "session"]
    assert [event["job"] for event in sessions] == [None, "raysubmit_1"]
    assert {event["host"] for event in sessions} == {socket.gethostname()}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_line_that_cannot_be_written_is_an_error(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(jsonl, "append", fail)
    message = rf"cannot write {run.journal}: {os.strerror(code)}; .* Make room or make the folder"
    with pytest.raises(StorageError, match=message):
        Journal(run).start_session()


def test_a_line_waits_for_a_folder_that_cannot_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, messages = RunFolder(tmp_path / "runs"), list[str]()
    monkeypatch.setattr("time.sleep", lambda seconds: run.root.mkdir())
    Journal(run, on_retry=messages.append).start_session()
    assert history_of(run).sessions == 1
    assert len(messages) == 2


def line(event: dict[str, Any], /, **change: Any) -> str:
    return json.dumps({"elapsed_s": 1.0} | event | change)


def without(event: dict[str, Any], key: str) -> str:
    whole = {"elapsed_s": 1.0} | event
    del whole[key]
    return json.dumps(whole)


FIRST = {"event": "trial", "stage": SEARCH, "trial": new_trial().to_dict()}
TRIAL = {"event": "trial", "stage": SEARCH, "trial": new_trial(1).to_dict()}
NO_LIMITS = {"time_s": None, "core_seconds": None, "gpu_seconds": None}
EXTENSION = {
    "event": "extension", "trials": 3, "budget": {"limits": NO_LIMITS, "before": NO_LIMITS},
    "report": None,
}  # fmt: skip
EPOCH = epoch_event(trial_name(0), 1)
SESSION = {"event": "session", "host": "host", "pid": 1, "job": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (without(SESSION, "event"), "it has no 'event'"),
        (without(SESSION, "elapsed_s"), "it has no 'elapsed_s'"),
        (line(SESSION, elapsed_s="1.0"), "elapsed_s must be of type float, got '1.0'"),
        (line(SESSION, elapsed_s=None), "elapsed_s must be of type float, got None"),
        (line(SESSION, elapsed_s=-1), "elapsed_s must be from 0 to 1e[+]12, got -1"),
        (line(SESSION, elapsed_s=0.5), "elapsed_s must be at least that of the line before, 1.0"),
        (line(SESSION, elapsed_s=10**400), "elapsed_s must be of type float, got 10000"),
        (line(SESSION, elapsed_s=math.nan), "is not valid JSON: Out of range float values"),
        (line(SESSION, host="\ud800"), "is not valid JSON: .* surrogates not allowed"),
        (line(FIRST), "it repeats the line before"),
        (line(FIRST, elapsed_s=2.0), "an earlier line has created trial-0000"),
        (line(SESSION, event="lunch"), "unknown event 'lunch'"),
        (line(SESSION, event=[]), r"unknown event \[\]"),
        (line({"event": "stage"}), "it has no 'stage'"),
        (line({"event": "stage", "stage": "lunch"}), "stage must be one of search, finalists, "),
        (line(TRIAL | {"trial": new_trial(1, name="../else").to_dict()}), "name must be letters,"),
        (line(TRIAL | {"trial": new_trial(1, name="trial-1").to_dict()}), "must be trial-0001"),
        (line(EPOCH, epoch=2), "epoch must be 1, got 2"),
        (line(EPOCH, epoch=True), "epoch must be of type int, got True"),
        (line(EPOCH, cpus=-1), "cpus must be from 0 to 1e[+]06, got -1"),
        (line(EPOCH, checkpoint="/etc/passwd"), "checkpoint must be a file of a trial's"),
        (line(RETRY, trial=new_trial(seed=8).to_dict()), "trial-0000 must be trained as it was"),
        (line(ENDED, state="RUNNING"), "trial-0000 cannot have ended as RUNNING after 0 of 4"),
        (line(ENDED, state="COMPLETE"), "trial-0000 cannot have ended as COMPLETE after 0 of 4"),
        (line(EXTENSION, trials=0), "trials must be from 1 to"),
        (line(EXTENSION, budget={"limits": {}}), "it has no 'time_s'"),
        (line(EXTENSION, budget=None), "budget must be of type dict"),
        (line(EXTENSION, report={"rmse": 1.0}), "it has no 'rmse_interval'"),
        (without(EXTENSION, "trials"), "it has no 'trials'"),
        (line(TRIAL, stage=1), "stage must be of type str, got 1"),
        (line(TRIAL, trial=None), "is not an event of this version of crnn-search"),
        (line(TRIAL, trial={}), "it has no 'config'"),
        (line(TRIAL, trial=new_trial().to_dict() | {"seed": "7"}), "seed must be of type int"),
        (without(EPOCH, "name"), "it has no 'name'"),
        (line(EPOCH, name="trial-0009"), "no earlier line has the trial 'trial-0009'"),
        (line(EPOCH, name=[]), r"name must be of type str, got \[\]"),
        (without(EPOCH, "train_loss"), "it has no 'train_loss'"),
        (line(EPOCH, train_loss="low"), r"train_loss must be of type float \| None, got 'low'"),
        (line(EPOCH, validation_rmse=[1]), r"validation_rmse must be of type float \| None"),
        (line(EPOCH, seconds=None), "seconds must be of type float, got None"),
        (without(SPENT, "cpus"), "it has no 'cpus'"),
        (line(RETRY), "it has no 'trial'"),
        (line(ENDED, state="DONE"), "'DONE' is not a valid TrialState"),
        ("[1]", r"must be a JSON object, got \[1\]"),
        ("{broken", "is not valid JSON"),
    ],
)
def test_an_altered_line_is_an_error_that_names_it(run: RunFolder, text: str, message: str) -> None:
    run.journal.write_text(f"{line(FIRST)}\n{text}\n")
    with pytest.raises(InputError, match=rf"line 2 of {run.journal} .*{message}"):
        history_of(run)


def test_an_altered_ledger_is_an_error_that_names_it(run: RunFolder) -> None:
    run.ledger.write_text("{}\n")
    with pytest.raises(InputError, match=rf"line 1 of {run.ledger} is not a trial .*no 'state'"):
        history_of(run)
