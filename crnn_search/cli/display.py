"""What the terminal shows while a search runs: a live table, or plain lines without a terminal."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from crnn_search.cli.data import progress_bar
from crnn_search.storage.trial import TrialRecord, TrialState
from crnn_search.text import duration, first_line, printable

RECENT_ROWS = 8
"""Rows of the live table, unless more trials run at once."""

RUNNING, WAITING = "running", "waiting"
WORDS = {
    TrialState.COMPLETE: "completed",
    TrialState.PRUNED: "stopped early",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: WAITING,  # for its turn in this session
}


@dataclass
class _Row:
    """What is shown of a trial. state: in words."""

    name: str
    state: str = RUNNING
    epoch: int = 0
    validation_rmse: float | None = None
    train_loss: float | None = None


@dataclass
class _Stage:
    """A stage and its trials. ended_before: trials that ended in earlier sessions."""

    title: str
    trials: int
    epochs: int
    started: float = field(default_factory=time.monotonic)
    rows: dict[str, _Row] = field(default_factory=dict)
    ended: int = 0
    ended_before: int = 0
    best: tuple[float, str] | None = None

    def row(self, name: str) -> _Row:
        return self.rows.setdefault(name, _Row(name))

    def epoch(
        self, name: str, epoch: int, validation_rmse: float | None, train_loss: float | None
    ) -> None:
        row = self.row(name)
        row.epoch, row.validation_rmse, row.train_loss = epoch, validation_rmse, train_loss
        if epoch >= self.epochs and validation_rmse is not None:
            found = (validation_rmse, name)
            self.best = found if self.best is None else min(self.best, found)

    def add_earlier(self, record: TrialRecord) -> None:
        """Add a trial of an earlier session."""
        name = record.trial.name
        loss = record.train_loss[-1] if record.train_loss else None
        self.epoch(name, record.epochs, record.last_rmse, loss)
        self.row(name).state = WORDS[record.state]
        self.ended += record.ended
        self.ended_before = self.ended

    def time_left(self) -> str:
        """An estimate from the trials that ended in this session."""
        ended = self.ended - self.ended_before
        if ended == 0 or self.ended >= self.trials:
            return ""
        left_s = (time.monotonic() - self.started) / ended * (self.trials - self.ended)
        return f"about {duration(left_s)} left"

    def headline(self) -> str:
        states = [row.state for row in self.rows.values()]
        counts = {word: states.count(word) for word in WORDS.values() if word != WAITING}
        parts = [
            f"{self.title}: {self.ended}/{self.trials}",
            ", ".join(f"{count} {word}" for word, count in counts.items() if count),
            "" if self.best is None else f"best {self.best[0]:.3f} ({self.best[1]})",
            duration(time.monotonic() - self.started),
            self.time_left(),
        ]
        return " · ".join(part for part in parts if part)


class _Tracker:
    """Collects what happens in a stage; its subclasses show it. See `Progress`.

    console: one without markup, see `terminal.console`.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.current: _Stage | None = None

    def stage(
        self, title: str, trials: int, epochs: int, known: Sequence[TrialRecord] = ()
    ) -> None:
        self.close()
        self.current = _Stage(title, trials, epochs)
        for record in known:
            self.current.add_earlier(record)

    def started(self, name: str) -> None:
        if self.current:
            self.current.row(name).state = RUNNING

    def epoch(
        self, name: str, epoch: int, validation_rmse: float | None, train_loss: float | None
    ) -> None:
        if self.current:
            self.current.epoch(name, epoch, validation_rmse, train_loss)

    def ended(self, name: str, state: str, reason: str | None) -> None:
        if self.current:
            self.current.ended += 1
            self.current.row(name).state = WORDS[TrialState(state)]

    def reading(self, what: str, done: int, total: int) -> None:
        if done == total:
            self.note(f"{what}: {total:,}")

    def note(self, text: str) -> None:
        self.console.print(printable(text), soft_wrap=True)

    def close(self) -> None:
        self.current = None


class LiveProgress(_Tracker):
    """A table that is redrawn in place; its last state stays on the screen."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._live: Live | None = None
        self._bars = contextlib.ExitStack()
        self._bar: Callable[[str, int, int], None] | None = None

    def stage(
        self, title: str, trials: int, epochs: int, known: Sequence[TrialRecord] = ()
    ) -> None:
        super().stage(title, trials, epochs, known)
        self._live = Live(get_renderable=self._render, console=self.console, refresh_per_second=2)
        self._live.start()

    def reading(self, what: str, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = self._bars.enter_context(progress_bar(self.console))
        self._bar(what, done, total)

    def note(self, text: str) -> None:
        self._close_bars()
        super().note(text)

    def close(self) -> None:
        self._close_bars()
        if self._live:
            self._live.stop()
            self._live = None
        super().close()

    def _close_bars(self) -> None:
        self._bars.close()
        self._bar = None

    def _render(self) -> Group:
        stage = self.current
        if stage is None:
            return Group()
        table = Table(box=None, pad_edge=False)
        for column in ("trial", "state", "epoch", "validation RMSE", "training loss"):
            table.add_column(column)
        running = [row for row in stage.rows.values() if row.state == RUNNING]
        others = [row for row in stage.rows.values() if row.state != RUNNING]
        for row in [*deque(others, maxlen=max(0, RECENT_ROWS - len(running))), *running]:
            table.add_row(
                printable(row.name),
                row.state,
                f"{row.epoch}/{stage.epochs}",
                "" if row.validation_rmse is None else f"{row.validation_rmse:.3f}",
                "" if row.train_loss is None else f"{row.train_loss:.3f}",
            )
        return Group(Text(printable(stage.headline())), table)


class PlainProgress(_Tracker):
    """One line for each trial that ends."""

    def stage(
        self, title: str, trials: int, epochs: int, known: Sequence[TrialRecord] = ()
    ) -> None:
        super().stage(title, trials, epochs, known)
        self.note(f"{title}: {trials} trials of up to {epochs} epochs")

    def ended(self, name: str, state: str, reason: str | None) -> None:
        super().ended(name, state, reason)
        stage = self.current
        if stage is None:
            return
        row, figure = stage.row(name), ""
        if row.validation_rmse is not None:
            figure = f"validation RMSE {row.validation_rmse:.3f}"
        elif row.train_loss is not None:
            figure = f"training loss {row.train_loss:.3f}"
        why = reason and first_line(reason)
        parts = [f"{name} {row.state} after epoch {row.epoch}", figure, why, stage.headline()]
        self.note(" · ".join(part for part in parts if part))


def show_on(console: Console) -> LiveProgress | PlainProgress:
    """The progress display that fits a console."""
    return LiveProgress(console) if console.is_terminal else PlainProgress(console)
