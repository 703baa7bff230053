"""Follows a search in a database, for Optuna's dashboard."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from crnn_search.spaces.space import SearchSpace
from crnn_search.storage import jsonl, temporary
from crnn_search.storage.files import atomic_write
from crnn_search.storage.journal import SEARCH, History
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import InfeasibleTrial, TrialRecord
from crnn_search.tuning.study_storage import StudyStorage, of_file
from crnn_search.tuning.study_writer import StudyOf, StudyWriter, TrialCopy, number_of

PAUSE_S, BUSY = 1.0, 4.0
"""Between two times that the database is brought up to date: a second, and so many times as long
as it takes."""

RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Pauses while the database cannot be reached; the last one again and again."""

END_S = 10.0
"""How long the end of a run waits for the database."""


class StudyMirror:
    """Copies the trials of a search into a database, in a thread of its own.

    The journal is the truth, the database a copy that nothing reads but Optuna's dashboard. What is
    to be written is the newest state of each trial, not a queue of events: a database that is slow
    or gone costs the search neither time nor memory, and is brought up to date once it is back. The
    user is told when it is gone, and when it is back.

    Without a server the database is the run's `study.db`. SQLite writes to a temporary folder, from
    where the file is copied: a run's folder may have no locks, or be pushed to an object store.
    """

    def __init__(
        self,
        run: RunFolder,
        space: SearchSpace,
        history: History,
        created: str,
        note: Callable[[str], None],
        server: StudyStorage | None = None,
    ) -> None:
        """created: when the run was launched. note: tells the user. server: in place of a file."""
        self._of = StudyOf(run.name, run.location, created)
        self._run, self._space, self._note, self._server = run, space, note, server
        self._changed = threading.Condition()
        self._known = _earlier(run, history)
        self._dirty = set(self._known)
        self._ending, self._deadline = False, 0.0
        self._problem: str | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """A block in which the database is kept up to date."""
        thread = threading.Thread(target=self._work, name="study mirror", daemon=True)
        thread.start()
        try:
            yield
        finally:
            with self._changed:
                self._ending, self._deadline = True, time.monotonic() + END_S
                self._changed.notify()
            thread.join(END_S)
            if self._problem or thread.is_alive():
                self._note(f"{self._place} is not up to date at the end of this session")

    def update(self, trial: TrialRecord | InfeasibleTrial) -> None:
        """A trial of the search was created, has a new epoch, or ended. Returns at once."""
        now = datetime.datetime.now()
        number, ended = number_of(trial), True
        if isinstance(trial, TrialRecord):
            ended, values = trial.ended, list(trial.validation_rmse)
            trial = dataclasses.replace(trial, validation_rmse=values)
        with self._changed:
            started = self._known[number].started if number in self._known else now
            self._known[number] = TrialCopy(trial, started, now if ended else None)
            self._dirty.add(number)
            self._changed.notify()

    @property
    def _place(self) -> str:
        where = self._server or self._run.location_of(self._run.study)
        return f"the copy of the study for Optuna's dashboard, {where},"

    def _work(self) -> None:
        """Bring the database up to date until the end, also after errors."""
        with contextlib.ExitStack() as stack:
            folder = None if self._server else stack.enter_context(temporary.folder())
            writer: StudyWriter | None = None
            failures = 0
            while True:
                copies, ends = self._wait(everything=writer is None)
                try:
                    writer = writer or self._open(folder, copies)
                    started = time.monotonic()
                    writer.write(copies)
                    self._publish(folder)
                except Exception as error:  # SQLAlchemy's have no nearer base
                    self._failed(error)
                    _close(writer)
                    writer, pause_s = None, RETRY_S[min(failures, len(RETRY_S) - 1)]
                    failures += 1
                    ends = ends and (self._server is None or time.monotonic() > self._deadline)
                else:
                    self._succeeded()
                    failures, pause_s = 0, max(PAUSE_S, BUSY * (time.monotonic() - started))
                if ends:
                    break
                self._pause(pause_s)
            _close(writer)

    def _pause(self, seconds: float) -> None:
        """Wait; at most a second once the session ends."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._ending, seconds):
                return
        if self._problem:
            time.sleep(min(seconds, 1.0))

    def _wait(self, *, everything: bool) -> tuple[list[TrialCopy], bool]:
        """The trials to write, by number, once there is one; and whether the session ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._dirty or self._ending or everything)
            numbers = self._known if everything else self._dirty
            copies = [self._known[number] for number in sorted(numbers)]
            self._dirty = set()
            return copies, self._ending

    def _open(self, folder: Path | None, copies: list[TrialCopy]) -> StudyWriter:
        if self._server:
            storage = self._server
        else:
            assert folder
            file = folder / self._run.study.name
            file.unlink(missing_ok=True)
            storage = of_file(file)
        writer = StudyWriter(storage, self._of, self._space)
        try:
            if not writer.agrees_with(copies):
                writer.write_anew()
        except BaseException:
            _close(writer)
            raise
        return writer

    def _publish(self, folder: Path | None) -> None:
        if folder:
            with atomic_write(self._run.study) as whole:
                shutil.copyfile(folder / self._run.study.name, whole)

    def _failed(self, error: Exception) -> None:
        storage = self._server or of_file(self._run.study)
        problem = storage.problem(error)
        if self._problem is None:
            self._note(f"cannot write {self._place} which does not stop the search: {problem}")
        self._problem = problem

    def _succeeded(self) -> None:
        if self._problem is not None:
            self._note(f"{self._place} is up to date again")
        self._problem = None


def _close(writer: StudyWriter | None) -> None:
    if writer:
        with contextlib.suppress(Exception):  # its connection is lost
            writer.close()


def _earlier(run: RunFolder, history: History) -> dict[int, TrialCopy]:
    """The trials of earlier sessions by number, with the times that the journal tells."""
    trials: list[TrialRecord | InfeasibleTrial] = [*history.infeasible]
    trials += history.records(SEARCH).values()
    times = _times(run.journal) if trials else {}
    now = datetime.datetime.now()
    found = {}
    for trial in trials:
        number = number_of(trial)
        found[number] = TrialCopy(trial, *times.get(number, (now, now)))
    return found


def _times(journal: Path) -> dict[int, tuple[datetime.datetime, datetime.datetime | None]]:
    """When each trial of the search started and ended, by number.

    An event has the run's working time; a session's start has the time of the clock, too.
    """
    zero = datetime.datetime.now()
    times: dict[int, tuple[datetime.datetime, datetime.datetime | None]] = {}
    numbers: dict[str, int] = {}
    for event in jsonl.read(journal):
        worked = datetime.timedelta(seconds=event["elapsed_s"])
        kind = event["event"]
        if kind == "session":
            started = datetime.datetime.fromisoformat(event["started"])
            zero = started.astimezone().replace(tzinfo=None) - worked
        elif kind == "trial" and event["stage"] == SEARCH:
            number = event["trial"]["number"]
            numbers[event["trial"]["name"]] = number
            times[number] = zero + worked, None
        elif kind == "ended" and event["name"] in numbers:
            number = numbers[event["name"]]
            times[number] = times[number][0], zero + worked
        elif kind == "infeasible":
            times[event["number"]] = zero + worked, zero + worked
    return times
