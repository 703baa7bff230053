"""What the report calls the things that depend on its task."""

from __future__ import annotations

from crnn_search.results.doubts import NETWORKS
from crnn_search.results.formatting import number
from crnn_search.results.schema import Report, SearchReport
from crnn_search.text import cut, printable

LENGTH_ONLY = {"count_only": "count only", "length_only": "length only"}
"""The baseline that sees the length of a sequence: that of sums, and that of other targets."""

MAX_SHORT = 30
"""Characters of a name or unit in a plot, a heading or beside a figure."""


def is_sums(report: SearchReport) -> bool:
    """Whether the targets are sums of MNIST's digits."""
    return bool(report["task"]["sums"])


def amount(report: SearchReport, value: float | None) -> str:
    """A figure in the target's unit, not yet Markdown."""
    unit = report["task"]["unit"]
    return number(value) + (f" {short(unit)}" if unit and value is not None else "")


def heading(report: SearchReport, name: str) -> str:
    """The name of a figure or target with the target's unit, not yet Markdown: `RMSE (mm)`."""
    unit = report["task"]["unit"]
    return f"{short(name)} ({short(unit)})" if unit else short(name)


def network(report: Report) -> str:
    """The network that the winner is compared with."""
    return NETWORKS[report["baseline_name"]]


def length_only(report: Report) -> str | None:
    """The key of the baseline that sees the length; None where all sequences have the same."""
    return next((key for key in LENGTH_ONLY if key in report["baselines"]), None)


def lengths_vary(report: Report) -> bool:
    """Whether there is more to say of lengths than that all sequences have the same."""
    return is_sums(report) or len(report["test"]["rmse_by_length"]) > 1


def one_line(text: str) -> str:
    """A name of the user's as plain text of one line."""
    return printable(cut(" ".join(text.split())))


def short(text: str) -> str:
    """The same where there is little room, as in a plot."""
    text = one_line(text)
    return text if len(text) <= MAX_SHORT else f"{text[: MAX_SHORT - 1]}…"
