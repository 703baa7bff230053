"""Figures as the report shows them; a figure that is not known is `missing`."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from crnn_search.text import cut, duration, first_line, printable

MISSING = "missing"


def number(value: float | None) -> str:
    """Three significant digits, and all before the point of a number below 1e9."""
    if value is None:
        return MISSING
    if abs(value) >= 1e9:
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")


def interval(bounds: Sequence[float] | None) -> str:
    """Low and high bound."""
    return f"{number(bounds[0])} to {number(bounds[1])}" if bounds else MISSING


def percent(share: float | None) -> str:
    """A share as percentage."""
    return MISSING if share is None else f"{100 * share:.1f} %"


def r2(value: float | None) -> str:
    """R², which is not defined where all targets are equal."""
    if value is None:
        return "–"
    return f"{value:z.3f}" if abs(value) < 100 else number(value)


def time(seconds: float | None) -> str:
    """A duration in words."""
    return MISSING if seconds is None else duration(seconds)


def times(seconds: Mapping[str, float] | None) -> str:
    """Named durations."""
    if not seconds:
        return MISSING
    return ", ".join(f"{name} {duration(value)}" for name, value in seconds.items())


def seeds(score: Mapping[str, Any]) -> str:
    """How many seeds a score is the mean of, with their standard deviation."""
    if score["rmse_std"] is None:
        return "one seed"
    return f"mean of {score['seeds']} seeds, SD {_sd(score['rmse_std'])}"


def spread(score: Mapping[str, Any]) -> str:
    """The standard deviation over a score's seeds, with their number."""
    return "–" if score["rmse_std"] is None else f"{_sd(score['rmse_std'])} (n = {score['seeds']})"


def deviation(values: Sequence[float]) -> str:
    """The sample standard deviation of some values, if there are two at least."""
    return _sd(statistics.stdev(values)) if len(values) > 1 else "–"


def _sd(value: float) -> str:
    """Two significant digits."""
    return f"{value:.2g}" if value < 100 else number(value)


def code(text: str) -> str:
    """The first line as a Markdown code span, in which nothing is markup."""
    return f"`{printable(first_line(text)).replace('`', chr(39))}`"


def plain(text: str) -> str:
    """A text of one line as Markdown in which nothing is markup; a long one is cut."""
    return escaped(cut(" ".join(text.split())))


def escaped(text: str) -> str:
    """A text as Markdown in which nothing is markup."""
    return re.sub(r"([\\`*_\[\]<>&|~])", r"\\\1", printable(text))


def block(text: str) -> str:
    """A Markdown code block of a shell command, whatever is in it."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}console\n{printable(text)}\n{fence}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, align: str = "--:") -> str:
    """A Markdown table; `align` is for all columns but the first. No cell has a line break."""
    lines = [header, ["---"] + [align] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, cells))} |" for cells in lines)


def _cell(text: str) -> str:
    """The text of a cell: a `|`, in code too, would end it."""
    return re.sub(r"(?<!\\)\|", r"\\|", text)
