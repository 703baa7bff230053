"""What the terminal shows while a run works: one live view, or plain lines without a terminal."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping

from rich.console import Console, RenderableType
from rich.live import Live

from crnn_search import signals
from crnn_search.cli.live_view import Row, best_of, counts, frame, rows_of
from crnn_search.storage.journal import SEARCH
from crnn_search.storage.ledger import rmse_words, saved_share, state_words
from crnn_search.storage.trial import TrialRecord, TrialState
from crnn_search.text import counted, duration, figure, first_line, printable, time_range
from crnn_search.tuning.progress import Stage

log = logging.getLogger("crnn_search")


class _Tracker:
    """Collects what happens in a run; its subclasses show it. See `Progress`.

    console: one without markup, see `terminal.console`.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.current: Stage | None = None
        self._running: set[str] = set()
        self._epochs: Mapping[str, float] = {}
        self._started = time.monotonic()
        self._trained_before = 0.0

    def doing(self, what: str) -> None:
        log.info("%s", what)
        self.current = None

    def stage(self, stage: Stage) -> None:
        self.current = stage
        self._running, self._epochs = set(), {}
        self._started, self._trained_before = time.monotonic(), _trained(self._rows(stage))

    def started(self, name: str) -> None:
        self._running.add(name)

    def shows_parts(self) -> bool:
        return False

    def within(self, epochs: Mapping[str, float]) -> None:
        self._epochs = dict(epochs)

    def epoch(self, name: str) -> None:
        pass

    def ended(self, name: str) -> None:
        self._running.discard(name)

    def reading(self, what: str, done: int, total: int) -> None:
        if done == total:
            self.note(f"{what}: {total:,}")

    def note(self, text: str) -> None:
        log.info("%s", text)
        self._print(text)

    def stopping(self) -> None:
        """The user has asked the run to stop."""
        log.info("%s", self._stopping())

    def close(self) -> None:
        self.current = None

    def _print(self, text: str) -> None:
        self.console.print(printable(text), soft_wrap=True)

    def _stopping(self) -> str:
        """What a run does that was asked to stop."""
        count = len(self._running) if self.current else 0
        return f"stopping: waiting for {counted(count, 'trial')}" if count else "stopping"

    def _summary(self, stage: Stage) -> str:
        """What has become of a stage, in one line."""
        rows = [row for row in self._rows(stage) if row.record.ended]
        best = best_of(stage)
        parts = [
            f"{stage.title}: {len(rows)}/{stage.trials}",
            counts(rows),
            f"best {figure(best.final_rmse)} ({best.trial.name})" if best else "",
            duration(time.monotonic() - self._started),
        ]
        return " · ".join(filter(None, parts))

    def _rows(self, stage: Stage) -> list[Row]:
        return rows_of(stage, self._running, self._epochs)

    def _time_left(self, stage: Stage) -> str:
        left = stage.time_left(self._epochs)
        return f"whole run: {time_range(*left)} left" if left else ""


class LiveProgress(_Tracker):
    """A view that is redrawn in place and uses the height that there is; it vanishes at the end."""

    def __init__(self, console: Console, name: str) -> None:
        """name: the run's."""
        super().__init__(console)
        self._name, self._doing, self._begun = name, "starting", time.monotonic()
        self._live = Live(
            get_renderable=self._render,
            console=console,
            refresh_per_second=2,
            transient=True,
            vertical_overflow="crop",
        )
        self._live.start(refresh=True)

    def doing(self, what: str) -> None:
        self._leave_stage()
        super().doing(what)
        self._doing = what

    def stage(self, stage: Stage) -> None:
        self._leave_stage()
        super().stage(stage)

    def shows_parts(self) -> bool:
        return True

    def ended(self, name: str) -> None:
        super().ended(name)
        record = self.current.own[name] if self.current else None
        if record and record.state == TrialState.FAIL:
            self._print(_ending(record))

    def reading(self, what: str, done: int, total: int) -> None:
        self._doing = f"{what}: {done:,} of {total:,}"

    def close(self) -> None:
        self._live.stop()  # before the line: a high view would push that off the screen
        self._leave_stage()
        super().close()

    def _leave_stage(self) -> None:
        """Leave a line of a stage on the screen."""
        if stage := self.current:
            self._print(self._summary(stage))

    def _render(self) -> RenderableType:
        stage, rows = self.current, []
        title = ", ".join(filter(None, (stage.title, stage.origin))) if stage else self._doing
        stops = signals.asked_to_stop()
        what = self._stopping() if stops else title
        head = [[self._name, what, duration(time.monotonic() - self._begun)]]
        if stage:
            rows = self._rows(stage)
            ended = [row for row in rows if row.record.ended]
            running = [row for row in rows if not row.record.ended]
            head[0].append("" if stops else self._time_left(stage))
            told = f"{len(ended)} of {stage.trials} trials ended"
            head.append([": ".join(filter(None, (told, counts(ended)))), counts(running)])
            head.append([*self._speed(stage, rows), *_compute(stage)])
        size = self.console.size
        return frame(head, stage, rows, size.width, size.height)

    def _speed(self, stage: Stage, rows: list[Row]) -> list[str]:
        """What the stage has trained per time in this session."""
        seconds, trained = time.monotonic() - self._started, _trained(rows)
        if seconds < 1 or trained <= self._trained_before:
            return []
        rate = (trained - self._trained_before) / seconds
        per, unit = (1, "s") if rate >= 1 else (60, "min") if rate * 60 >= 1 else (3600, "h")
        return [
            f"{rate * per:{'.0f' if rate * per >= 10 else '.2g'}} epochs/{unit}",
            f"{rate * stage.epoch_sequences:,.0f} sequences/s",
        ]


class PlainProgress(_Tracker):
    """A line for each thing that the run does, and for each trial that ends."""

    def doing(self, what: str) -> None:
        super().doing(what)
        self._print(what)

    def stage(self, stage: Stage) -> None:
        super().stage(stage)
        title = ", ".join(filter(None, (stage.title, stage.origin)))
        ended = sum(record.ended for record in stage.own.values())
        before = f", {ended} ended before" if ended else ""
        trials, epochs = counted(stage.trials, "trial"), counted(stage.epochs, "epoch")
        self._print(f"{title}: {trials} of up to {epochs}{before}")

    def ended(self, name: str) -> None:
        super().ended(name)
        if stage := self.current:
            parts = _ending(stage.own[name]), self._summary(stage), self._time_left(stage)
            self._print(" · ".join(filter(None, parts)))

    def stopping(self) -> None:
        super().stopping()
        self._print(self._stopping())


def show_on(console: Console, name: str) -> LiveProgress | PlainProgress:
    """The progress display of a run that fits a console. name: the run's."""
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveProgress(console, name)
    return PlainProgress(console)


def _ending(record: TrialRecord) -> str:
    """How a trial ended, in one line."""
    state = f"{record.trial.name} {state_words(record)} after epoch {record.epochs}"
    why = first_line(record.reason) if record.reason else ""
    return " · ".join(filter(None, (state, rmse_words(record), why)))


def _trained(rows: Iterable[Row]) -> float:
    """The epochs of trials, with the parts of those that are not done."""
    return sum(row.epochs for row in rows)


def _compute(stage: Stage) -> list[str]:
    """What the run has spent, and what early stopping has saved of it."""
    everything = [r for records in list(stage.records.values()) for r in list(records.values())]
    parts = []
    for word, key in (("core time", "core_seconds"), ("GPU time", "gpu_seconds")):
        if seconds := sum(getattr(record, key) for record in everything):
            parts.append(f"{word} {duration(seconds)}")
    searched = [r for r in list(stage.records.get(SEARCH, {}).values()) if r.ended]
    saved = saved_share(searched, searched[0].trial.epochs) if searched else None
    return [*parts, f"early stopping saved {saved:.0%} of the epochs"] if saved else parts
