"""What a person sees while a search runs: one live table, or plain lines when nobody watches."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from crnn_search.storage.trial import JobRecord
from crnn_search.text import duration

RECENT_ROWS = 8


@dataclass
class _Row:
    name: str
    state: str = "running"
    epoch: int = 0
    rmse: float | None = None
    loss: float | None = None


@dataclass
class _Stage:
    title: str
    jobs: int
    epochs: int
    began: float = field(default_factory=time.monotonic)
    rows: dict[str, _Row] = field(default_factory=dict)
    ended: int = 0
    ended_before: int = 0
    best: _Row | None = None

    def epoch(self, name: str, epoch: int, rmse: float | None, loss: float | None) -> None:
        row = self.rows.setdefault(name, _Row(name))
        row.epoch, row.rmse, row.loss = epoch, rmse, loss
        full = epoch >= self.epochs and rmse is not None
        if full and (self.best is None or self.best.rmse is None or (rmse or 0) < self.best.rmse):
            self.best = row

    def take_in(self, record: JobRecord) -> None:
        """Know a job of an earlier session."""
        value = record.values[-1] if record.values else None
        loss = record.losses[-1] if record.losses else None
        self.epoch(record.job.name, record.epochs, value, loss)
        self.rows[record.job.name].state = record.state or "waiting"
        self.ended += bool(record.state)
        self.ended_before = self.ended

    def time_left(self) -> str:
        """A guess from the pace so far."""
        here = self.ended - self.ended_before
        if not here or self.ended >= self.jobs:
            return ""
        left = (time.monotonic() - self.began) / here * (self.jobs - self.ended)
        return f"about {duration(left)} left"

    def headline(self) -> str:
        best = ""
        if self.best and self.best.rmse is not None:
            best = f"best {self.best.rmse:.3f} ({self.best.name})"
        counts = dict.fromkeys(_WORDS, 0)
        for row in self.rows.values():
            if row.state in counts:
                counts[row.state] += 1
        told = ", ".join(f"{n} {_WORDS[state]}" for state, n in counts.items() if n)
        passed = duration(time.monotonic() - self.began)
        parts = [f"{self.title}: {self.ended}/{self.jobs}", told, best, passed, self.time_left()]
        return " · ".join(part for part in parts if part)


class _Tracker:
    """Keeps a stage's rows; its subclasses show them."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.current: _Stage | None = None

    def stage(self, title: str, jobs: int, epochs: int, known: Sequence[JobRecord] = ()) -> None:
        self.close()
        self.current = _Stage(title, jobs, epochs)
        for record in known:
            if record.job.epochs:  # else it is a network that could not be built
                self.current.take_in(record)

    def started(self, name: str) -> None:
        if self.current:
            self.current.rows.setdefault(name, _Row(name)).state = "running"

    def epoch(self, name: str, epoch: int, rmse: float | None, loss: float) -> None:
        if not self.current:
            return
        self.current.epoch(name, epoch, rmse, loss)

    def ended(self, name: str, state: str, reason: str | None) -> None:
        if self.current:
            self.current.ended += 1
            self.current.rows.setdefault(name, _Row(name)).state = state

    def note(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self.current = None


class LiveProgress(_Tracker):
    """A table that is redrawn in place; its last state stays on the screen."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._live: Live | None = None

    def stage(self, title: str, jobs: int, epochs: int, known: Sequence[JobRecord] = ()) -> None:
        super().stage(title, jobs, epochs, known)
        self._live = Live(get_renderable=self._render, console=self.console, refresh_per_second=2)
        self._live.start()

    def close(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None
        super().close()

    def _render(self) -> Group:
        stage = self.current
        if stage is None:
            return Group()
        table = Table(box=None, pad_edge=False)
        for column in ("job", "state", "epoch", "validation RMSE", "training loss"):
            table.add_column(column)
        running = [row for row in stage.rows.values() if row.state == "running"]
        ended = [row for row in stage.rows.values() if row.state != "running"]
        for row in [*deque(ended, maxlen=max(0, RECENT_ROWS - len(running))), *running]:
            table.add_row(
                row.name,
                _WORDS.get(row.state, row.state),
                f"{row.epoch}/{stage.epochs}",
                "" if row.rmse is None else f"{row.rmse:.3f}",
                "" if row.loss is None else f"{row.loss:.3f}",
            )
        return Group(Text(stage.headline()), table)


class PlainProgress(_Tracker):
    """One line for each job that ends."""

    def stage(self, title: str, jobs: int, epochs: int, known: Sequence[JobRecord] = ()) -> None:
        super().stage(title, jobs, epochs, known)
        self.note(f"{title}: {jobs} jobs of up to {epochs} epochs")

    def ended(self, name: str, state: str, reason: str | None) -> None:
        super().ended(name, state, reason)
        stage = self.current
        if stage is None:
            return
        row = stage.rows[name]
        figure = f"validation RMSE {row.rmse:.3f}" if row.rmse is not None else ""
        if row.rmse is None and row.loss is not None:
            figure = f"training loss {row.loss:.3f}"
        what = f"{name} {_WORDS.get(state, state)} after epoch {row.epoch}"
        self.note(" · ".join(p for p in (what, figure, reason or "", stage.headline()) if p))


_WORDS = {"COMPLETE": "completed", "PRUNED": "stopped early", "FAIL": "failed"}


def show_on(console: Console) -> LiveProgress | PlainProgress:
    """The progress display that fits a console."""
    return LiveProgress(console) if console.is_terminal else PlainProgress(console)
