"""The table of a run's trials: sorted, filtered, as text or CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

from crnn_search.cli import terminal
from crnn_search.errors import InputError
from crnn_search.text import compact, duration, figure, first_line, shown

Rows = list[dict[str, Any]]
"""As `Run.trials` gives them."""

RANK = "rank"
"""The order of trials from the best to the worst; it is no column."""


class State(StrEnum):
    """A trial's state in a word. CUT: it ended because the search did."""

    COMPLETED = "completed"
    UNFINISHED = "unfinished"
    STOPPED = "stopped"
    CUT = "cut"
    FAILED = "failed"
    INFEASIBLE = "infeasible"


STATES = {
    "COMPLETE": State.COMPLETED,
    "RUNNING": State.UNFINISHED,
    "PRUNED": State.STOPPED,
    "FAIL": State.FAILED,
    "INFEASIBLE": State.INFEASIBLE,
}


def state_of(row: dict[str, Any]) -> State:
    """The state of a trial."""
    return State.CUT if row["state"] == "PRUNED" and row["reason"] else STATES[row["state"]]


def chosen(rows: Rows, sort: str, states: Sequence[State] | None) -> Rows:
    """Those trials that are in one of the states, in any if there are none, sorted by a column.

    Trials without a value come last.

    Raises:
        InputError: there is no such column.
    """
    wanted = [row for row in rows if not states or state_of(row) in states]
    if sort in {RANK, "validation_rmse"}:  # the one order in which RMSEs of trials compare
        return sorted(wanted, key=_rank)
    if rows and sort not in rows[0]:
        names = ", ".join((RANK, *rows[0]))
        raise InputError(f"--sort must be one of {names}, got {shown(sort)}")
    if any(isinstance(row[sort], list) and None in row[sort] for row in wanted):
        raise InputError(f"--sort must be a column with one value for each trial, got {sort}")
    known = [row for row in wanted if row[sort] is not None]
    return sorted(known, key=lambda row: row[sort]) + [r for r in wanted if r[sort] is None]


def _rank(row: dict[str, Any]) -> tuple[int, int, float, int]:
    """Full-budget trials first, then the longest-lived; among equals by RMSE, then by number."""
    group = list(STATES).index(row["state"])
    rmse = row["validation_rmse"]
    return group, -(row["epochs"] or 0), math.inf if rmse is None else rmse, row["number"]


def csv_text(rows: Rows) -> str:
    """The trials as CSV: a line each, lists as JSON."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()}
            )
    return text.getvalue()


def show(rows: Rows, searched: Iterable[str]) -> None:
    """Print the trials with the hyperparameters that are searched, as many as fit a terminal."""
    columns: dict[str, Sequence[str]] = {
        "trial": [str(row["number"]) for row in rows],
        "state": [state_of(row) for row in rows],
        "epochs": [_text(row["epochs"]) for row in rows],
        "validation RMSE": [_figure(row["validation_rmse"]) for row in rows],
        "train RMSE": [_figure(_root(row["train_loss"])) for row in rows],
    }
    kind = "GPU" if any(row["gpu_seconds"] for row in rows) else "core"
    columns[f"{kind} time"] = [_time(row[f"{kind.lower()}_seconds"]) for row in rows]
    right = {"trial", *list(columns)[2:]}
    columns |= {name: [compact(row[name]) for row in rows] for name in searched}
    if any(row["reason"] for row in rows):
        columns["reason"] = [first_line(row["reason"]) if row["reason"] else "" for row in rows]
    left_out = terminal.show_columns(columns, right)
    if left_out:
        terminal.show(f"no room for {', '.join(left_out)}; --csv and --json have all")


def _root(loss: float | None) -> float | None:
    return None if loss is None else math.sqrt(loss)


def _figure(value: float | None) -> str:
    return "" if value is None else figure(value)


def _time(seconds: float | None) -> str:
    return "" if seconds is None else duration(seconds)


def _text(value: object) -> str:
    return "" if value is None else str(value)
