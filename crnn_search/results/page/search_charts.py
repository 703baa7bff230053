"""Charts of a search, as figures of Plotly's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from crnn_search.results.page.charts import (
    BLUE,
    DIGITS,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    layout,
    log_axis,
    safe,
)
from crnn_search.results.page.document import Figure
from crnn_search.results.schema import Axis, Importance, Incumbent, Rung, TrialRow

LOOKS: Mapping[str, tuple[str, str]] = {
    "stopped": (GREY, "circle"), "cut": (PURPLE, "triangle-right"), "failed": (ORANGE, "x"),
    "running": (GREEN, "circle-open"), "completed": (BLUE, "diamond"),
}  # fmt: skip
"""Colour and symbol of a trial's state, in the order in which curves are drawn."""

WORDS = {
    "stopped": "stopped early", "cut": "cut when the search ended", "failed": "failed",
    "running": "running", "completed": "completed",
}  # fmt: skip

LINES = ("solid", "dash", "dot", "dashdot", "longdash")
COLORS = (BLUE, ORANGE, GREEN, PURPLE, GREY)


def learning_curves(rows: Sequence[TrialRow], winner: int | None, rmse: str) -> Figure:
    """The validation RMSE of every trial by epoch. winner: a trial's number. rmse: the axis."""
    data = [
        _curves([row for row in rows if row["state"] == state], WORDS[state], *look)
        for state, look in LOOKS.items()
        if any(row["state"] == state for row in rows)
    ]
    best = [row for row in rows if row["number"] == winner]
    if best:
        trace = _curves(best, "winner", GREEN, "star")
        trace["line"]["width"] = 4
        data.append(trace)
    values = [v for row in rows for v in row["validation_rmse_by_epoch"] if v is not None]
    ceiling = 1.5 * float(np.quantile(values, 0.95)) if values else math.inf
    epochs = max((len(row["validation_rmse_by_epoch"]) for row in rows), default=1)
    axis = {"dtick": math.ceil(epochs / 10), "range": [0.5, epochs + 0.5]}
    return {
        "data": data,
        "layout": layout("epoch", rmse, height=460, xaxis=axis, yaxis=log_axis(values, ceiling)),
    }


def _curves(rows: Iterable[TrialRow], name: str, color: str, symbol: str) -> dict[str, Any]:
    """Curves of some trials as one trace, with a gap between them."""
    x: list[int | None] = []
    y: list[float | None] = []
    numbers: list[int | None] = []
    for row in rows:
        curve = row["validation_rmse_by_epoch"]
        x += [*range(1, len(curve) + 1), None]
        y += [*(value if value is None else _short(value) for value in curve), None]
        numbers += [*[row["number"]] * len(curve), None]
    return {
        "type": "scatter",
        "name": name,
        "x": x,
        "y": y,
        "customdata": numbers,
        "mode": "lines+markers",
        "line": {"color": color, "width": 1.3},
        "marker": {"color": color, "symbol": symbol, "size": 6},
        "hovertemplate": f"trial %{{customdata}}, epoch %{{x}}: %{{y:{DIGITS}}}"
        f"<extra>{name}</extra>",
    }


def _short(value: float) -> float:
    """A number of so many digits as a chart shows."""
    return float(f"{value:.5g}")


def incumbents(
    series: Mapping[str, tuple[Sequence[Incumbent], float]], key: str, x: str, rmse: str
) -> Figure:
    """The best full-budget RMSE so far. series: by label, incumbents and where they end.

    key: of an incumbent, that the axis `x` shows; core seconds are shown in hours.
    """
    unit = 3600 if key.endswith("seconds") else 1
    data = []
    for place, (label, (found, end)) in enumerate(series.items()):
        at = [item[key] / unit for item in found]  # type: ignore[literal-required]
        values: list[float | None] = [_short(item["validation_rmse"]) for item in found]
        if found:
            at, values = [*at, end / unit], [*values, values[-1]]
        color = COLORS[place % len(COLORS)]
        data.append(
            {
                "type": "scatter",
                "name": safe(label),
                "x": [_short(value) for value in at],
                "y": values,
                "customdata": [item["number"] for item in (*found, *found[-1:])],
                "mode": "lines+markers",
                "line": {
                    "shape": "hv", "color": color, "dash": LINES[place % len(LINES)], "width": 2
                },
                "marker": {"color": color, "size": 7},
                "hovertemplate": f"trial %{{customdata}}: %{{y:{DIGITS}}} after %{{x:{DIGITS}}}"
                f"<extra>{safe(label)}</extra>",
            }
        )  # fmt: skip
    known: list[float | None] = [
        item["validation_rmse"] for found, _ in series.values() for item in found
    ]
    shown = layout(x, rmse, height=320, yaxis=log_axis(known), xaxis={"rangemode": "tozero"})
    return {"data": data, "layout": shown | {"showlegend": len(series) > 1}}


def rungs(rows: Sequence[TrialRow], found: Sequence[Rung], rmse: str) -> Figure:
    """The RMSE of each trial at each rung, and which of them continued."""
    data = []
    for continued, (name, color, symbol) in {
        False: ("ended there", GREY, "circle"), True: ("continued", BLUE, "diamond"),
    }.items():  # fmt: skip
        points = [
            (str(rung["epochs"]), row["validation_rmse_by_epoch"][rung["epochs"] - 1], row)
            for rung in found
            for row in rows
            if len(row["validation_rmse_by_epoch"]) >= rung["epochs"]
            and (len(row["validation_rmse_by_epoch"]) > rung["epochs"]) == continued
        ]
        data.append(
            {
                "type": "scatter", "name": name, "mode": "markers",
                "x": [epochs for epochs, _, _ in points],
                "y": [value for _, value, _ in points],
                "customdata": [row["number"] for _, _, row in points],
                "marker": {"color": color, "symbol": symbol, "size": 8, "opacity": 0.8},
                "hovertemplate": f"trial %{{customdata}}: %{{y:{DIGITS}}}<extra>{name}</extra>",
            }
        )  # fmt: skip
    values = [
        row["validation_rmse_by_epoch"][rung["epochs"] - 1]
        for rung in found
        for row in rows
        if len(row["validation_rmse_by_epoch"]) >= rung["epochs"]
    ]
    order = [str(rung["epochs"]) for rung in found]
    axis = {"type": "category", "categoryorder": "array", "categoryarray": order}
    shown = layout("rung, after so many epochs", rmse, height=340, xaxis=axis)
    shown["yaxis"] |= log_axis(values)
    return {"data": data, "layout": shown}


def parallel(rows: Sequence[TrialRow], axes: Sequence[Axis], rmse: str) -> Figure:
    """Full-budget trials in parallel coordinates."""
    values = [row["validation_rmse"] for row in rows]
    dimensions = [_dimension(axis, [row["values"][axis["name"]] for row in rows]) for axis in axes]
    dimensions.append({"label": safe(rmse), "values": values, "tickformat": DIGITS})
    return {
        "data": [{
            "type": "parcoords",
            "dimensions": dimensions,
            "line": {"color": values, "colorscale": "Viridis", "reversescale": True},
            "labelangle": -15,
        }],
        "layout": {
            **{k: v for k, v in layout("", "").items() if k not in {"xaxis", "yaxis", "legend"}},
            "height": 420, "margin": {"l": 90, "r": 60, "t": 90, "b": 30},
        },
    }  # fmt: skip


def _dimension(axis: Axis, values: Sequence[Any]) -> dict[str, Any]:
    """A hyperparameter as an axis of parallel coordinates."""
    if any(isinstance(value, str) for value in values):
        texts = sorted({str(value) for value in values})
        return {
            "label": axis["name"],
            "values": [texts.index(str(value)) for value in values],
            "tickvals": list(range(len(texts))),
            "ticktext": texts,
        }
    if not axis["log"] or min(values) <= 0:
        return {"label": axis["name"], "values": list(values), "tickformat": DIGITS}
    low, high = math.log10(min(values)), math.log10(max(values))
    ticks = [low + (high - low) * place / 4 for place in range(5)] if high > low else [low]
    return {
        "label": axis["name"],
        "values": [math.log10(value) for value in values],
        "tickvals": ticks,
        "ticktext": [f"{10**tick:.2g}" for tick in ticks],
    }


def slice_of(rows: Sequence[TrialRow], axis: Axis, rmse: str) -> Figure:
    """The RMSE of each trial by one hyperparameter; values of stopped trials are hidden at first.

    They are of fewer epochs, and cannot be compared.
    """
    data = []
    for states, name in ((("completed",), "full budget"), (("stopped", "cut"), "stopped earlier")):
        some = [r for r in rows if r["state"] in states and r["validation_rmse"] is not None]
        color, symbol = LOOKS[states[0]]
        data.append(
            {
                "type": "scatter", "name": name, "mode": "markers",
                "x": [row["values"][axis["name"]] for row in some],
                "y": [row["validation_rmse"] for row in some],
                "customdata": [[row["number"], row["epochs"]] for row in some],
                "marker": {"color": color, "symbol": symbol, "size": 8, "opacity": 0.8},
                "visible": True if name == "full budget" else "legendonly",
                "hovertemplate": "trial %{customdata[0]}, %{customdata[1]} epochs, "
                f"%{{x}}: %{{y:{DIGITS}}}<extra></extra>",
            }
        )  # fmt: skip
    text = any(isinstance(row["values"][axis["name"]], str) for row in rows)
    kind = "category" if text else "log" if axis["log"] else "linear"
    shown = layout(axis["name"], rmse, height=290, xaxis={"type": kind})
    shown["yaxis"] |= {"type": "log", "tickformat": "~g", "nticks": 6}
    if kind == "log":
        shown["xaxis"] |= _log_ticks([row["values"][axis["name"]] for row in rows])
    return {"data": data, "layout": shown}


def importance(shares: Sequence[Importance]) -> Figure:
    """Shares of importance with their intervals, the highest on top."""
    ascending = list(reversed(shares))
    values = [item["share"] for item in ascending]
    trace = {
        "type": "bar",
        "orientation": "h",
        "y": [item["name"] for item in ascending],
        "x": values,
        "marker": {"color": BLUE},
        "error_x": {
            "type": "data", "symmetric": False, "color": ORANGE,
            "array": [max(0.0, i["interval"][1] - i["share"]) for i in ascending],
            "arrayminus": [max(0.0, i["share"] - i["interval"][0]) for i in ascending],
        },
        "hovertemplate": "%{y}: %{x:.1%}<extra></extra>",
    }  # fmt: skip
    axis = {"tickformat": ".0%", "rangemode": "tozero"}
    shown = layout("share of importance", "", height=110 + 28 * len(shares), xaxis=axis)
    return {"data": [trace], "layout": shown}


def pareto(rows: Sequence[TrialRow], key: str, x: str, rmse: str) -> Figure:
    """The RMSE of full-budget trials against what they need, with the front."""
    known = [row for row in rows if row[key] is not None]  # type: ignore[literal-required]
    best = front(known, key)
    data = []
    for name, some, color, symbol in (
        ("other trials", [row for row in known if row not in best], GREY, "circle"),
        ("Pareto front", best, BLUE, "diamond"),
    ):
        data.append(
            {
                "type": "scatter", "name": name,
                "mode": "lines+markers" if some is best else "markers",
                "x": [row[key] for row in some],  # type: ignore[literal-required]
                "y": [row["validation_rmse"] for row in some],
                "customdata": [row["number"] for row in some],
                "line": {"shape": "hv", "color": color, "width": 1.5, "dash": "dot"},
                "marker": {"color": color, "symbol": symbol, "size": 10},
                "hovertemplate": f"trial %{{customdata}}: %{{x:{DIGITS}}}, %{{y:{DIGITS}}}"
                "<extra></extra>",
            }
        )  # fmt: skip
    values = [row["validation_rmse"] for row in known]
    axis = {"tickformat": "~s" if key == "parameters" else "~g", "nticks": 5}
    needs = [row[key] for row in known]  # type: ignore[literal-required]
    if needs and max(needs) > 10 * min(needs) > 0:
        axis |= {"type": "log"} | _log_ticks(needs)
    return {"data": data, "layout": layout(x, rmse, height=360, xaxis=axis, yaxis=log_axis(values))}


def _log_ticks(values: Sequence[float]) -> dict[str, Any]:
    """Ticks of a logarithmic axis, few enough for a small chart."""
    span = math.log10(max(values) / min(values)) if values and min(values) > 0 else 0
    return {"dtick": 1, "tickformat": "~g"} if span > 1.2 else {"tickformat": "~g", "nticks": 5}


def front(rows: Iterable[TrialRow], key: str) -> list[TrialRow]:
    """The rows that no other row beats in RMSE without needing more, in order of need."""
    found: list[TrialRow] = []
    usable = [row for row in rows if row["validation_rmse"] is not None]
    for row in sorted(usable, key=lambda r: (r[key], r["validation_rmse"])):  # type: ignore[literal-required]
        if not found or _rmse(row) < _rmse(found[-1]):
            found.append(row)
    return found


def _rmse(row: TrialRow) -> float:
    assert row["validation_rmse"] is not None
    return row["validation_rmse"]
