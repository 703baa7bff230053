"""Hooks: functions or commands that hear of each trial's end and of the run's end.

A hook can neither stop nor slow the search: hooks run one after another in a background thread, in
the order of events, and what goes wrong with one is a note for the user.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from crnn_search.errors import CrnnSearchError, InputError, InterruptedRun
from crnn_search.storage.files import read_json
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import InfeasibleTrial, TrialRecord
from crnn_search.text import first_line, shown

TIMEOUT_S = 60.0
"""After this time a command is ended, and the run does not wait for hooks any more."""

GRACE_S = 1.0
"""How much longer the run waits for a hook than a command may take."""

Event = dict[str, Any]
"""What a hook gets: values of JSON only."""

Hook = Callable[[Event], object]
State = Literal["finished", "failed", "interrupted"]


@dataclass(frozen=True)
class Hooks:
    """The user's hooks, None where there is none.

    on_trial_end: gets the trial's line of the ledger and its `stage`: search, finalists or retrain.
    on_end: gets `run` (its location), `name`, `state` (finished, failed or interrupted), `error`,
    `test_rmse` and `report` (the location of report.md), each None if there is none.
    """

    on_trial_end: Hook | None = None
    on_end: Hook | None = None


NO_HOOKS = Hooks()


class CommandError(Exception):
    """A hook's command failed or took too long."""


class Command:
    """A hook that runs a command and writes the event, one object of JSON, to its standard input.

    The command is split as a shell would do it, but no shell runs it. What it prints is dropped; if
    it fails, the first line that it wrote to standard error is in the note.

    Raises:
        InputError: the text is no command, or its program is not found.
    """

    def __init__(self, text: str, option: str) -> None:
        try:
            self.words = shlex.split(text)
        except ValueError as error:
            raise InputError(f"{option} must be a command, got {shown(text)}: {error}") from error
        if not self.words or shutil.which(self.words[0]) is None:
            raise InputError(
                f"{option} must be a command whose program can be found, got {shown(text)}; for "
                "redirections and the like use sh -c '...'"
            )

    def __call__(self, event: Event) -> None:
        """Run the command; CommandError: it fails, or takes more than `TIMEOUT_S`."""
        with subprocess.Popen(
            self.words,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C in the terminal is for the search
        ) as process:
            try:
                _, printed = process.communicate(json.dumps(event), TIMEOUT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise CommandError(f"it was ended after {TIMEOUT_S:.0f} s") from None
        if process.returncode:
            said = f": {printed.strip().splitlines()[0]}" if printed.strip() else ""
            raise CommandError(f"exit code {process.returncode}{said}")


class HookRunner:
    """Calls a run's hooks in background threads. note: tells the user of what went wrong."""

    def __init__(self, run: RunFolder, hooks: Hooks, note: Callable[[str], None]) -> None:
        self._run, self._hooks, self._note = run, hooks, note
        self._ended: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._late = False

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """A block in which the run works; `on_end` is called after it.

        Not called where nothing started (an `InputError`), nor at a second Ctrl-C.
        """
        trials = threading.Thread(target=self._call_for_trials, daemon=True)
        trials.start()
        try:
            yield
        except (InputError, KeyboardInterrupt):
            self._ended.put(None)
            raise
        except Exception as error:
            state: State = "interrupted" if isinstance(error, InterruptedRun) else "failed"
            self._finish(trials, state, _text(error))
            raise
        self._finish(trials, "finished", None)

    def trial_ended(self, stage: str, trial: TrialRecord | InfeasibleTrial) -> None:
        """A trial ended, and its line is in the ledger or the journal. Returns at once."""
        if self._hooks.on_trial_end:
            # A copy, which no later change of the record reaches, and of JSON's types only.
            self._ended.put(json.loads(json.dumps({**trial.to_dict(), "stage": stage})))

    def _finish(self, trials: threading.Thread, state: State, error: str | None) -> None:
        """Wait for the calls that are due, but not for long; then call `on_end`."""
        self._ended.put(None)
        trials.join(TIMEOUT_S + GRACE_S)
        if trials.is_alive():
            self._late = True
            self._note(f"on_trial_end is {TIMEOUT_S:.0f} s late; its other calls are dropped")
        if self._hooks.on_end is None:
            return
        call = ("on_end", self._hooks.on_end, self._summary(state, error))
        end = threading.Thread(target=self._call, args=call, daemon=True)
        end.start()
        end.join(TIMEOUT_S + GRACE_S)
        if end.is_alive():
            self._note(f"on_end is still running after {TIMEOUT_S:.0f} s; the run does not wait")

    def _summary(self, state: State, error: str | None) -> Event:
        run, rmse = self._run, None
        if found := run.report_json.is_file():
            with contextlib.suppress(InputError, KeyError, TypeError):
                rmse = read_json(run.report_json)["test"]["rmse"]
        return {
            "run": run.location,
            "name": run.name,
            "state": state,
            "error": error,
            "test_rmse": rmse,
            "report": run.location_of(run.report_markdown) if found else None,
        }

    def _call_for_trials(self) -> None:
        while (event := self._ended.get()) is not None and not self._late:
            assert self._hooks.on_trial_end
            self._call("on_trial_end", self._hooks.on_trial_end, event)

    def _call(self, name: str, hook: Hook, event: Event) -> None:
        """Call a hook; a failure is noted, and so is a call that took too long."""
        what = f"{name} ({event.get('name') or event['number']})" if "stage" in event else name
        started = time.monotonic()
        try:
            hook(event)
        except BaseException as error:  # even sys.exit() ends the hook only
            self._note(f"{what} failed: {_text(error)}")
            return
        taken_s = time.monotonic() - started
        if taken_s > TIMEOUT_S:
            self._note(f"{what} took {taken_s:.0f} s")


def _text(error: BaseException) -> str:
    """An error's message, with its type unless it is one of this package's or a command's."""
    if isinstance(error, CrnnSearchError | CommandError):
        return str(error)
    return f"{type(error).__name__}: {first_line(error)}"
