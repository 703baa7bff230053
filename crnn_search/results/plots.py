"""The report's pictures; the one module that imports Matplotlib.

Colours are from Okabe and Ito's palette, which colour-blind readers can tell apart; line styles and
markers say the same again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from crnn_search.storage.jsonl import Record

BLUE, ORANGE, GREY, BLACK = "#0072B2", "#D55E00", "#8C8C8C", "#000000"

# Drawn in this order, so that the many stopped trials lie below.
TRIAL_STYLES: dict[str, tuple[str, dict[str, Any]]] = {
    "PRUNED": (
        "stopped early",
        {"color": GREY, "linewidth": 0.9, "marker": "o", "markersize": 3.5, "alpha": 0.8},
    ),
    "FAIL": (
        "failed",
        {"color": ORANGE, "linewidth": 1.1, "linestyle": "--", "marker": "x", "markersize": 6},
    ),
    "COMPLETE": (
        "completed",
        {"color": BLUE, "linewidth": 1.2, "marker": "|", "markersize": 6, "alpha": 0.8},
    ),
}
WINNER_STYLE: dict[str, Any] = {"color": BLACK, "linewidth": 2.6, "marker": "D", "markersize": 5}


def learning_curves(
    path: Path, trials: Sequence[Record], *, winner: int, epochs: int, ceiling: float
) -> None:
    """Draw the validation RMSE of every trial by epoch, each marked where it ended.

    winner: number of the trial to stand out. epochs: the full budget. ceiling: RMSE above which the
    picture is cut off.
    """
    figure, axes = _frame(f"Validation RMSE of {len(trials)} trials", "epoch", "validation RMSE")
    legend: list[Line2D] = []
    for state, (word, style) in TRIAL_STYLES.items():
        group = [trial for trial in trials if trial["state"] == state]
        for trial in group:
            _curve(axes, trial["values"], ceiling, style)
        legend.insert(0, Line2D([], [], label=f"{len(group)} {word}", **style))
    for trial in trials:
        if trial["number"] == winner:
            _curve(axes, trial["values"], ceiling, WINNER_STYLE)
            legend.insert(0, Line2D([], [], label=f"winner (trial {winner})", **WINNER_STYLE))
    axes.set_xlim(0.5, epochs + 0.5)
    _limit(axes, [v for trial in trials for v in trial["values"] if v], ceiling)
    axes.legend(handles=legend, fontsize=9, loc="upper right", bbox_to_anchor=(1, 0.93))
    _save(figure, path)


def rmse_by_length(path: Path, series: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw RMSE by sequence length with 95 % intervals, one line for each of `series`.

    series: by label, a dictionary with `rmse_by_length` and `rmse_interval_by_length`, as in
    `evaluate.Score`; the first one stands out.
    """
    figure, axes = _frame("Test RMSE by length", "digits in the sequence", "test RMSE")
    looks = ((BLUE, "o", "-"), (ORANGE, "s", "--"), (GREY, "^", ":"))
    for place, ((label, score), (color, marker, line)) in enumerate(
        zip(series.items(), looks, strict=False)
    ):
        # Moved aside a little, so that intervals do not cover each other.
        lengths = [int(length) + 0.06 * (place - 1) for length in score["rmse_by_length"]]
        values = list(score["rmse_by_length"].values())
        axes.errorbar(
            lengths,
            values,
            yerr=_arms(values, list(score["rmse_interval_by_length"].values())),
            label=label,
            color=color,
            marker=marker,
            linestyle=line,
            linewidth=2.2 if place == 0 else 1.5,
            capsize=3,
        )
    axes.legend(frameon=False, fontsize=9)
    _save(figure, path)


def _arms(values: list[float], intervals: list[list[float] | None]) -> list[list[float]]:
    """Lengths of the error bars below and above each value; none where there is no interval."""
    spans = [interval or [value, value] for value, interval in zip(values, intervals, strict=True)]
    below = [value - low for value, (low, _) in zip(values, spans, strict=True)]
    above = [high - value for value, (_, high) in zip(values, spans, strict=True)]
    return [below, above]


def _curve(
    axes: Axes, values: Sequence[float | None], ceiling: float, style: dict[str, Any]
) -> None:
    """One trial's curve, cut off at `ceiling`, with a marker at its last number; gaps at None."""
    known = [place for place, value in enumerate(values) if value]
    if known:
        heights = [min(value or math.nan, ceiling) for value in values]
        axes.plot(range(1, len(values) + 1), heights, markevery=[known[-1]], **style)


def _limit(axes: Axes, values: Sequence[float], ceiling: float) -> None:
    """Fit the axis to the curves, and say so if some were cut off."""
    if not values:
        return
    axes.set_ylim(0.85 * min(*values, ceiling), 1.3 * min(max(values), ceiling))
    if max(values) > ceiling:
        axes.axhline(ceiling, color=GREY, linewidth=0.7, linestyle=":")
        note = f"cut off here: values up to {max(values):.3g}"
        axes.text(0.99, ceiling * 1.03, note, transform=axes.get_yaxis_transform(),
                  fontsize=8, color=GREY, ha="right", va="bottom")  # fmt: skip


def _frame(title: str, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """An empty picture with a logarithmic RMSE axis, in no window and no global state."""
    figure = Figure(figsize=(7.5, 4.4), dpi=130, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel(x_label)
    axes.set_ylabel(f"{y_label} (log scale)")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
