"""What the live view shows of a stage, for a terminal of any size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from crnn_search.storage.ledger import ranked, state_words
from crnn_search.storage.trial import TrialRecord, TrialState
from crnn_search.text import compact, figure, printable
from crnn_search.tuning.progress import Stage

GROUPS = ("best", "running", "waiting", "completed", "stopped early", "cut", "failed")
"""The states of rows, in their order."""

STYLES = {"best": "bold", "stopped early": "dim", "cut": "dim", "failed": "red"}

MIN_WIDTHS = {"state": len("stopped early"), "train\nRMSE": 6}
"""So that columns stay where they are while trials train."""

GAP = 2
"""Columns of the terminal between those of the table."""


@dataclass(frozen=True)
class Row:
    """A trial as the view shows it. state: one of `GROUPS`. epochs: with the part of the next."""

    record: TrialRecord
    state: str
    epochs: float

    @property
    def order(self) -> tuple[int, float, float, int]:
        """Rows are sorted by state; those of a state by their epochs, then by RMSE."""
        record, rmse = self.record, self.record.last_rmse
        place = float("inf") if rmse is None else rmse
        return GROUPS.index(self.state), -record.epochs, place, record.trial.number

    @property
    def state_text(self) -> str:
        """The state, and how far the trial is within its epoch."""
        part = self.epochs - self.record.epochs
        if self.state != "running" or part <= 0:
            return self.state
        return "validating" if part >= 1 else f"running {part:.0%}"


def rows_of(stage: Stage, running: set[str], epochs: Mapping[str, float]) -> list[Row]:
    """The trials of a stage in their order.

    running: their names. epochs: see `Progress.within`.
    """
    rows, best = [], best_of(stage)
    for name, record in list(stage.own.items()):
        state = state_words(record)
        if record is best:
            state = "best"
        elif record.state == TrialState.RUNNING:
            state = "running" if name in running else "waiting"
        rows.append(Row(record, state, max(record.epochs, epochs.get(name, 0.0))))
    return sorted(rows, key=lambda row: row.order)


def best_of(stage: Stage) -> TrialRecord | None:
    """The best trial with its full budget; that of a search only: finalists win by their mean."""
    first = next(iter(ranked(list(stage.own.values()))), None)
    whole = first is not None and first.state == TrialState.COMPLETE
    return first if whole and stage.name == "search" else None


def counts(rows: Sequence[Row]) -> str:
    """How many trials are in each state: `2 completed, 1 failed`."""
    found = Counter("completed" if row.state == "best" else row.state for row in rows)
    return ", ".join(f"{found[state]} {state}" for state in GROUPS if found[state])


def frame(head: Sequence[Sequence[str]], stage: Stage | None, rows: Sequence[Row],
          width: int, height: int) -> RenderableType:  # fmt: skip
    """The view. head: lines of parts, which are wrapped between two parts only."""
    lines = [line for parts in head for line in wrapped(parts, width)][: max(1, height - 7)]
    texts = [Text(printable(line), no_wrap=True, overflow="ellipsis") for line in lines]
    texts[0].stylize("bold")
    if stage is None or not rows:
        return Group(*texts)
    table_rows = height - len(texts) - 4  # a blank line, two of the header, the cursor's
    shown, rest = rows, rows[:0]
    if len(rows) > table_rows:
        kept = max(1, table_rows - 1)
        shown, rest = rows[:kept], rows[kept:]
    parts: list[RenderableType] = [*texts, "", _table(stage, shown, width)]
    if rest:
        parts.append(Text(f"… and {len(rest)} more: {counts(rest)}", "dim", no_wrap=True))
    return Group(*parts)


def wrapped(parts: Sequence[str], width: int) -> list[str]:
    """The parts in lines of at most this width, if each part has at most that."""
    lines: list[str] = []
    for part in filter(None, parts):
        longer = f"{lines[-1]} · {part}" if lines else part
        if lines and len(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(part)
    return lines


def _table(stage: Stage, rows: Sequence[Row], width: int) -> Table:
    """The rows with as many of the searched hyperparameters as fit."""
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    columns = _columns(stage, rows)
    left = width - sum(_width(*column) + GAP for column in columns) + GAP
    for name in stage.searched:
        column = name, [compact(row.record.trial.config.to_dict()[name]) for row in rows]
        if left >= GAP + _width(*column):
            columns.append(column)
            left -= GAP + _width(*column)
    for name, _ in columns:
        right = "RMSE" in name or name == "epochs"
        table.add_column(
            name,
            no_wrap=True,
            justify="right" if right else "left",
            min_width=MIN_WIDTHS.get(name),
        )
    for row, cells in zip(rows, zip(*(cells for _, cells in columns), strict=True), strict=True):
        table.add_row(*map(printable, cells), style=STYLES.get(row.state, ""))
    return table


def _columns(stage: Stage, rows: Sequence[Row]) -> list[tuple[str, list[str]]]:
    """The columns that are always there: header and cells."""
    columns = [
        ("trial", [row.record.trial.name for row in rows]),
        ("state", [row.state_text for row in rows]),
        ("epochs", [f"{row.record.epochs}/{stage.epochs}" for row in rows]),
    ]
    if not all(row.record.trial.all_images for row in rows):  # else there is no validation
        columns.append(("validation\nRMSE", [_rmse(row.record.last_rmse) for row in rows]))
    return [*columns, ("train\nRMSE", [_rmse(row.record.train_rmse) for row in rows])]


def _rmse(value: float | None) -> str:
    return "" if value is None else figure(value)


def _width(header: str, cells: Sequence[str]) -> int:
    widest = max(len(text) for text in (*header.split("\n"), *cells))
    return max(widest, MIN_WIDTHS.get(header, 0))
