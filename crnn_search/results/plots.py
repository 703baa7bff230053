"""The report's plots; the one module that imports Matplotlib.

Colours are from Okabe and Ito's palette, which colour-blind readers can tell apart; line styles and
markers repeat the distinction.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from crnn_search.storage.files import atomic_write, writing
from crnn_search.storage.trial import TrialRecord, TrialState

BLUE, ORANGE, GREY, BLACK = "#0072B2", "#D55E00", "#8C8C8C", "#000000"

# Drawn in this order, so that the many stopped trials are below the others.
TRIAL_STYLES: dict[TrialState, dict[str, Any]] = {
    TrialState.PRUNED: {
        "color": GREY, "linewidth": 0.9, "marker": "o", "markersize": 3.5, "alpha": 0.8
    },
    TrialState.FAIL: {
        "color": ORANGE, "linewidth": 1.1, "linestyle": "--", "marker": "x", "markersize": 6
    },
    TrialState.COMPLETE: {
        "color": BLUE, "linewidth": 1.2, "marker": "|", "markersize": 6, "alpha": 0.8
    },
}  # fmt: skip
LABELS = {
    TrialState.PRUNED: "stopped early",
    TrialState.FAIL: "failed",
    TrialState.COMPLETE: "completed",
}
MAX_POINTS = 2000
"""More sequences are counted in cells instead of drawn one by one."""

CELLS = 60
"""Cells of an axis; as many as there are whole numbers, up to 100, where all targets are whole."""

MAX_TICKS = 12

MAX_ARM = 3
"""Error bars are cut at this times the largest RMSE, and at the least over this."""

WINNER_STYLE: dict[str, Any] = {"color": BLACK, "linewidth": 2.6, "marker": "D", "markersize": 5}


def learning_curves(
    path: Path,
    trials: Sequence[TrialRecord],
    *,
    winner: int,
    epochs: int,
    ceiling: float,
    rmse: str = "validation RMSE",
) -> None:
    """Plot the validation RMSE of every trial by epoch, with a marker at its last one.

    winner: number of the trial to highlight. epochs: the full budget. ceiling: RMSE above which
    curves are clipped. rmse: the axis's label, with the unit.
    """
    figure, axes = _rmse_frame(f"Validation RMSE of {len(trials)} trials", "epoch", rmse)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0.5, epochs + 0.5)
    floor = _limit(axes, [trial.validation_rmse for trial in trials], ceiling)
    legend: list[Line2D] = []
    for state, style in TRIAL_STYLES.items():
        group = [trial for trial in trials if trial.state == state]
        for trial in group:
            _curve(axes, trial.validation_rmse, (floor, ceiling), style)
        legend.insert(0, Line2D([], [], label=f"{len(group)} {LABELS[state]}", **style))
    for trial in trials:
        if trial.trial.number == winner:
            _curve(axes, trial.validation_rmse, (floor, ceiling), WINNER_STYLE)
            legend.insert(0, Line2D([], [], label=f"winner (trial {winner})", **WINNER_STYLE))
    axes.legend(handles=legend, fontsize=9, loc="upper right", bbox_to_anchor=(1, 0.93))
    _save(figure, path)


def rmse_by_length(
    path: Path,
    series: Mapping[str, Mapping[str, Any]],
    steps: str = "digits",
    rmse: str = "test RMSE",
) -> None:
    """Plot RMSE by sequence length with 95 % intervals, one line for each of `series`.

    series: by label, a dictionary with `rmse_by_length` and `rmse_interval_by_length`, as in
    `scores.Score`; the first one is highlighted. steps: what a sequence is of. rmse: the axis's
    label, with the unit.
    """
    figure, axes = _rmse_frame("Test RMSE by length", f"{steps} in the sequence", rmse)
    labels = list(next(iter(series.values()))["rmse_by_length"])
    every = math.ceil(len(labels) / MAX_TICKS)
    axes.set_xticks(range(len(labels))[::every], labels[::every])
    looks = ((BLUE, "o", "-"), (ORANGE, "s", "--"), (GREY, "^", ":"))
    for place, ((label, score), (color, marker, line)) in enumerate(
        zip(series.items(), looks, strict=False)
    ):
        # Shifted a little, so that intervals do not cover each other.
        lengths = [number + 0.06 * (place - 1) for number in range(len(labels))]
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
    shown = [rmse for score in series.values() for rmse in score["rmse_by_length"].values() if rmse]
    if shown:  # intervals of a few sequences may be a hundred times as wide
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, min(shown) / MAX_ARM), min(high, max(shown) * MAX_ARM))
    axes.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1, 1), ncols=3)
    _save(figure, path)


def predicted(
    path: Path, targets: NDArray[np.float64], predictions: NDArray[np.float64], target: str
) -> None:
    """Plot predictions `(S,)` of the test sequences against their targets `(S,)`.

    target: its name, with the unit.
    """
    many = len(targets) > MAX_POINTS
    figure, axes = _frame("Predicted against true, test sequences", (6.2 if many else 5.6, 5.4))
    axes.set_xlabel(f"true {target}", parse_math=False)
    axes.set_ylabel(f"predicted {target}", parse_math=False)
    axes.grid(color="#DDDDDD", linewidth=0.7)
    both = np.concatenate([targets, predictions])
    low, high = float(both.min()), float(both.max())
    margin = 0.04 * (high - low) or 0.04 * abs(high) or 1.0
    low, high = low - margin, high + margin
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    if many:
        whole = high - low <= 100 and bool((targets == targets.round()).all())
        side = 1 if whole else (high - low) / CELLS
        start = math.floor(low) - 0.5 if whole else low
        edges = start + side * np.arange(math.ceil((high - start) / side) + 1)
        colors = LinearSegmentedColormap.from_list("counts", ["#B8D8EA", BLUE, "#001A2B"])
        cells = axes.hist2d(
            targets, predictions, bins=(edges, edges), cmin=1, norm=LogNorm(), cmap=colors
        )[3]
        figure.colorbar(cells, ax=axes, label="test sequences", shrink=0.8)
    else:
        axes.scatter(targets, predictions, s=14, color=BLUE, alpha=0.5, linewidths=0)
    axes.plot([low, high], [low, high], color=BLACK, linewidth=0.9, linestyle="--")
    _save(figure, path)


def _arms(values: list[float], intervals: list[list[float] | None]) -> list[list[float]]:
    """Lengths of the error bars below and above each value; 0 where there is no interval."""
    spans = [interval or [value, value] for value, interval in zip(values, intervals, strict=True)]
    below = [value - low for value, (low, _) in zip(values, spans, strict=True)]
    above = [high - value for value, (_, high) in zip(values, spans, strict=True)]
    return [below, above]


def _curve(
    axes: Axes, rmse: Sequence[float | None], limits: tuple[float, float], style: dict[str, Any]
) -> None:
    """One trial's curve, clipped to `limits`, with a marker at its last value; a gap at None."""
    known = [place for place, value in enumerate(rmse) if value is not None]
    if known:
        low, high = limits
        heights = [math.nan if value is None else min(max(value, low), high) for value in rmse]
        axes.plot(range(1, len(rmse) + 1), heights, markevery=[known[-1]], **style)


def _limit(axes: Axes, curves: Sequence[Sequence[float | None]], ceiling: float) -> float:
    """Fit the axis to curves, and note if some are clipped at the ceiling; returns its low end.

    A logarithmic axis has no 0: such a value is plotted at the low end.
    """
    values = [value for curve in curves for value in curve if value is not None]
    highest = max(values, default=ceiling)
    floor = 0.85 * min([ceiling, *(value for value in values if value > 0)])
    axes.set_ylim(floor, 1.3 * max(min(highest, ceiling), floor))
    if highest > ceiling:
        axes.axhline(ceiling, color=GREY, linewidth=0.7, linestyle=":")
        note = f"clipped here: values up to {highest:.3g}"
        axes.text(0.99, ceiling * 1.03, note, transform=axes.get_yaxis_transform(),
                  fontsize=8, color=GREY, ha="right", va="bottom")  # fmt: skip
    return floor


def _rmse_frame(title: str, x_label: str, rmse: str) -> tuple[Figure, Axes]:
    """An empty plot with a logarithmic RMSE axis."""
    figure, axes = _frame(title, (7.5, 4.4))
    axes.set_xlabel(x_label)
    axes.set_ylabel(f"{rmse} (log scale)", parse_math=False)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.7)
    return figure, axes


def _frame(title: str, size: tuple[float, float]) -> tuple[Figure, Axes]:
    """An empty plot without a window or global state. size: width and height in inches."""
    figure = Figure(figsize=size, dpi=130, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    with writing(path), warnings.catch_warnings():
        # The target may be named in a script that the font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        path.parent.mkdir(exist_ok=True)
        with atomic_write(path) as temporary:
            figure.savefig(temporary, format="png")
