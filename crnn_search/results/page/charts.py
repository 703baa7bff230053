"""Charts of the test result, as figures of Plotly's. Colours are from Okabe and Ito's palette.

They are legible on white and on black; the page sets the colour of texts.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crnn_search.results.page.document import Figure
from crnn_search.results.schema import Score, StepError

BLUE, ORANGE, GREEN, PURPLE, GREY = "#2f8fc9", "#d55e00", "#009e73", "#b85c9a", "#8c8c8c"

GRID = "rgba(128,128,128,0.25)"

MAX_POINTS = 2000
"""More sequences are counted in cells instead of drawn one by one."""

CELLS = 60
"""Cells of an axis; as many as there are whole numbers, up to 100, where all targets are whole."""

MAX_ARM = 3
"""Error bars are cut at this times the RMSE, and at the RMSE over this."""

DIGITS = ".3~g"
"""How numbers are shown when the mouse is over a point."""


def safe(text: str) -> str:
    """A text of the user's, in which nothing is markup."""
    return html.escape(text, quote=False)


def layout(x: str, y: str, *, height: int = 380, **others: Any) -> dict[str, Any]:
    """The layout of a chart. x, y: titles of the axes. others: over what is common to all."""
    axis = {"gridcolor": GRID, "zeroline": False, "automargin": True}
    common: dict[str, Any] = {
        "height": height,
        "margin": {"l": 56, "r": 16, "t": 30, "b": 48},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13},
        "hovermode": "closest",
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "xaxis": {**axis, "title": {"text": safe(x)}},
        "yaxis": {**axis, "title": {"text": safe(y)}},
    }
    for name, value in others.items():
        common[name] = {**common[name], **value} if name in {"xaxis", "yaxis"} else value
    return common


def log_axis(values: Sequence[float | None], ceiling: float = math.inf) -> dict[str, Any]:
    """A logarithmic axis with plain numbers that shows values, up to a ceiling."""
    shown = [value for value in values if value is not None and 0 < value <= ceiling]
    found: dict[str, Any] = {"type": "log", "tickformat": "~g"}
    if shown:
        low, high = math.log10(min(shown)), math.log10(max(shown))
        found["range"] = [low - 0.06, high + 0.06]
        found |= {"dtick": "D2"} if high - low > 0.9 else {}  # 1, 2 and 5 only
    return found


def by_length(
    series: Mapping[str, Score], longer: Mapping[str, Score | None], steps: str, rmse: str
) -> Figure:
    """RMSE by length with 95 % intervals, and beyond the lengths of training where that is known.

    series, longer: scores by label; the first is highlighted.
    """
    data, known = [], []
    places = next(iter(series.values()))["rmse_by_length"]
    numeric = all(label.isdigit() for label in places)
    looks = ((BLUE, "circle", "solid"), (ORANGE, "square", "dash"), (GREY, "triangle-up", "dot"))
    for (label, score), (color, symbol, dash) in zip(series.items(), looks, strict=False):
        found = [*_points(score), *_points(longer.get(label))]
        known += [value for _, value, _ in found]
        data.append(
            {
                "type": "scatter",
                "name": label,
                "x": [int(length) if numeric else length for length, _, _ in found],
                "y": [value for _, value, _ in found],
                "error_y": _arms(found, color),
                "mode": "lines+markers",
                "line": {"color": color, "dash": dash, "width": 2.5 if color == BLUE else 1.5},
                "marker": {"symbol": symbol, "size": 7},
                "hovertemplate": f"%{{x}} {steps}: %{{y:{DIGITS}}}<extra>{label}</extra>",
            }
        )
    axis = {"type": "linear" if numeric else "category"}
    shown = layout(f"{steps} in the sequence", rmse, xaxis=axis, yaxis=log_axis(known))
    if any(longer.values()):
        shown |= _edge(max(map(int, places)) + 0.5)
    return {"data": data, "layout": shown}


def _edge(x: float) -> dict[str, Any]:
    """A line where the lengths of training end."""
    line = {"color": GREY, "dash": "dot", "width": 1}
    return {
        "shapes": [{
            "type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": line,
        }],
        "annotations": [{
            "x": x, "yref": "paper", "y": 0, "xanchor": "left", "yanchor": "bottom",
            "text": "longer than in training", "showarrow": False,
        }],
    }  # fmt: skip


def _points(score: Score | None) -> list[tuple[str, float, list[float] | None]]:
    """Length, RMSE and interval of a score."""
    if score is None:
        return []
    intervals = score["rmse_interval_by_length"]
    return [(length, rmse, intervals[length]) for length, rmse in score["rmse_by_length"].items()]


def _arms(points: Sequence[tuple[str, float, list[float] | None]], color: str) -> dict[str, Any]:
    """Error bars; intervals of a few sequences may be a hundred times as wide."""
    spans = [(rmse, *(interval or [rmse, rmse])) for _, rmse, interval in points]
    return {
        "type": "data",
        "symmetric": False,
        "array": [min(high, MAX_ARM * rmse) - rmse for rmse, _, high in spans],
        "arrayminus": [rmse - max(low, rmse / MAX_ARM) for rmse, low, _ in spans],
        "color": color,
        "thickness": 1,
    }


def predicted(
    targets: NDArray[np.float64], predictions: NDArray[np.float64], target: str
) -> Figure:
    """Predictions `(S,)` of the test sequences against their targets `(S,)`. target: its name."""
    both = np.concatenate([targets, predictions])
    low, high = float(both.min()), float(both.max())
    margin = 0.04 * (high - low) or 0.04 * abs(high) or 1.0
    low, high = low - margin, high + margin
    if len(targets) > MAX_POINTS:
        data = [_cells(targets, predictions, low, high)]
    else:
        data = [{
            "type": "scatter", "mode": "markers", "x": _short(targets), "y": _short(predictions),
            "marker": {"color": BLUE, "opacity": 0.5, "size": 6}, "showlegend": False,
            "hovertemplate": f"true %{{x:{DIGITS}}}, predicted %{{y:{DIGITS}}}<extra></extra>",
        }]  # fmt: skip
    data.append({
        "type": "scatter", "mode": "lines", "x": [low, high], "y": [low, high], "hoverinfo": "skip",
        "line": {"color": GREY, "dash": "dash", "width": 1}, "showlegend": False,
    })  # fmt: skip
    axis = {"range": [low, high]}
    return {
        "data": data,
        "layout": layout(
            f"true {target}", f"predicted {target}", height=460, xaxis=axis, yaxis=axis
        ),
    }


def _cells(
    targets: NDArray[np.float64], predictions: NDArray[np.float64], low: float, high: float
) -> dict[str, Any]:
    """How many sequences are in each cell."""
    whole = high - low <= 100 and bool((targets == targets.round()).all())
    side = 1 if whole else (high - low) / CELLS
    start = math.floor(low) - 0.5 if whole else low
    edges = start + side * np.arange(math.ceil((high - start) / side) + 1)
    counts = np.histogram2d(predictions, targets, bins=(edges, edges))[0]
    middles = _short((edges[:-1] + edges[1:]) / 2)
    heights = [[round(math.log10(n), 2) if n else None for n in row] for row in counts.tolist()]
    most = math.ceil(math.log10(max(1, counts.max())))
    return {
        "type": "heatmap",
        "x": middles,
        "y": middles,
        "z": heights,
        "text": counts.astype(int).tolist(),
        "hovertemplate": "true %{x}, predicted %{y}: %{text} sequences<extra></extra>",
        "colorscale": "Viridis",
        "colorbar": {
            "title": {"text": "sequences"}, "thickness": 12,
            "tickvals": list(range(most + 1)), "ticktext": [f"{10**n:,}" for n in range(most + 1)],
        },
    }  # fmt: skip


def _short(values: NDArray[np.float64]) -> list[float]:
    """Numbers of so many digits as a chart shows."""
    return [float(f"{value:.6g}") for value in values.tolist()]


def steps(errors: Mapping[str, StepError], kind: str) -> Figure:
    """RMSE and mean of the errors of steps. kind: what they are grouped by."""
    counts = [error["steps"] for error in errors.values()]
    return {
        "data": [
            {
                "type": "bar", "name": "RMSE", "x": list(errors),
                "y": [error["rmse"] for error in errors.values()], "customdata": counts,
                "marker": {"color": BLUE},
                "hovertemplate": f"{kind} %{{x}}: RMSE %{{y:{DIGITS}}}, %{{customdata:,}} steps"
                "<extra></extra>",
            },
            {
                "type": "scatter", "name": "mean", "mode": "markers", "x": list(errors),
                "y": [error["mean"] for error in errors.values()],
                "marker": {"color": ORANGE, "symbol": "diamond", "size": 9},
                "hovertemplate": f"{kind} %{{x}}: mean %{{y:{DIGITS}}}<extra></extra>",
            },
        ],
        "layout": layout(kind, "error of the step", height=320, xaxis={"type": "category"}),
    }  # fmt: skip
