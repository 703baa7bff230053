"""Hooks hear of the ends of trials and run, in order; none stops or slows the search."""

from __future__ import annotations

import json
import shlex
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from crnn_search.errors import InputError, InterruptedRun, RunError
from crnn_search.pipeline import hooks
from crnn_search.pipeline.hooks import Command, Event, HookRunner, Hooks
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import InfeasibleTrial


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks that are slow after 0.2 s."""
    monkeypatch.setattr(hooks, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(hooks, "GRACE_S", 0.2)


def python(program: str) -> Command:
    return Command(shlex.join([sys.executable, "-c", program]), "--on-end")


def infeasible(number: int) -> InfeasibleTrial:
    return InfeasibleTrial(number, {"dropout": 0.5}, "too small")


def end_trials(run: RunFolder, chosen: Hooks, count: int = 3) -> list[str]:
    """Run hooks on a run of some trials; returns the notes."""
    notes: list[str] = []
    runner = HookRunner(run, chosen, notes.append)
    with runner.running():
        for number in range(count):
            runner.trial_ended("search", infeasible(number))
    return notes


def test_hooks_are_called_in_order(run: RunFolder) -> None:
    events: list[Event] = []
    assert end_trials(run, Hooks(events.append, events.append)) == []
    line = {"state": "INFEASIBLE", "config": {"dropout": 0.5}, "reason": "too small"}
    assert events[:3] == [line | {"number": n, "stage": "search"} for n in range(3)]
    assert events[3] == {
        "run": str(run.root), "name": run.name, "state": "finished", "error": None,
        "test_rmse": None, "report": None,
    }  # fmt: skip


def test_run_without_hooks_starts_and_ends(run: RunFolder) -> None:
    assert end_trials(run, Hooks()) == []


def test_end_names_test_rmse_and_report(run: RunFolder) -> None:
    run.report_json.write_text('{"test": {"rmse": 0.75}}')
    events: list[Event] = []
    end_trials(run, Hooks(on_end=events.append))
    assert [(event["test_rmse"], event["report"]) for event in events] == [
        (0.75, str(run.report_markdown))
    ]


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (RunError("no"), "failed"),
        (InterruptedRun("no"), "interrupted"),
        (ValueError("no"), "failed"),
    ],
)
def test_end_of_a_run_that_fails(run: RunFolder, error: Exception, state: str) -> None:
    events: list[Event] = []
    runner = HookRunner(run, Hooks(on_end=events.append), print)
    with pytest.raises(type(error), match="no"), runner.running():
        raise error
    assert [event["state"] for event in events] == [state]
    assert events[0]["error"].endswith("no")


@pytest.mark.parametrize("error", [InputError("no"), KeyboardInterrupt("no")])
def test_no_end_where_nothing_started_or_at_a_second_interrupt(
    run: RunFolder, error: BaseException
) -> None:
    events: list[Event] = []
    runner = HookRunner(run, Hooks(on_end=events.append), print)
    with pytest.raises(type(error), match="no"), runner.running():
        raise error
    assert events == []


def test_failing_hooks_are_noted(run: RunFolder) -> None:
    def fail(event: Event) -> None:
        if event.get("number") == 1:
            raise KeyError("key")
        sys.exit(3)

    assert end_trials(run, Hooks(fail, fail)) == [
        "on_trial_end (0) failed: SystemExit: 3",
        "on_trial_end (1) failed: KeyError: 'key'",
        "on_trial_end (2) failed: SystemExit: 3",
        "on_end failed: SystemExit: 3",
    ]


@pytest.mark.usefixtures("quick")
def test_slow_trial_hook_neither_slows_the_run_nor_keeps_its_end(run: RunFolder) -> None:
    release = threading.Event()
    ended: list[Event] = []

    def wait(event: Event) -> None:
        release.wait(30)

    started = time.monotonic()
    notes = end_trials(run, Hooks(wait, ended.append))
    release.set()
    assert time.monotonic() - started < 10
    assert notes == ["on_trial_end is 0 s late; its other calls are dropped"]
    assert len(ended) == 1


@pytest.mark.usefixtures("quick")
def test_slow_hooks_are_noted(run: RunFolder) -> None:
    notes = end_trials(run, Hooks(lambda _: time.sleep(0.3)), count=1)
    assert notes == ["on_trial_end (0) took 0 s"]


def test_command_gets_the_event_and_no_shell(run: RunFolder, tmp_path: Path) -> None:
    written = tmp_path / "event.json"
    program = "import sys; open(sys.argv[1], 'w').write(sys.stdin.read() + sys.argv[2])"
    words = [sys.executable, "-c", program, str(written), "$HOME"]
    event: dict[str, Any] = {"name": "Größe", "value": None}
    Command(shlex.join(words), "--on-end")(event)
    assert json.loads(written.read_text().removesuffix("$HOME")) == event


def test_failing_commands_are_noted(run: RunFolder) -> None:
    assert end_trials(run, Hooks(on_end=python("import sys; sys.exit('no server')"))) == [
        "on_end failed: exit code 1: no server"
    ]
    assert end_trials(run, Hooks(on_end=python("raise SystemExit(7)"))) == [
        "on_end failed: exit code 7"
    ]


@pytest.mark.usefixtures("quick")
def test_slow_command_is_ended(run: RunFolder) -> None:
    started = time.monotonic()
    notes = end_trials(run, Hooks(on_end=python("import time; time.sleep(60)")))
    assert time.monotonic() - started < 10
    assert notes == ["on_end failed: it was ended after 0 s"]
