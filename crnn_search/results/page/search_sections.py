"""The sections of the report on the search, importance, and what a network costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from crnn_search.results.formatting import code, interval, number, percent, plain, table, time
from crnn_search.results.page import search_charts
from crnn_search.results.page.document import (
    Block,
    Cell,
    Chart,
    Configs,
    Section,
    Text,
    TrialTable,
)
from crnn_search.results.schema import SearchReport, TrialRow
from crnn_search.results.words import heading, is_sums
from crnn_search.storage.ledger import ENDED

MAX_REASONS = 10
"""How many reasons of failures are listed; the other failures are counted."""

MAX_ROWS = 500
"""Trials in the table and the charts: the best ones; all are in report.json."""

_COSTS = {
    "parameters": "parameters", "ms_per_sequence": "ms a sequence",
    "core_seconds": "core seconds of training", "gpu_seconds": "GPU seconds of training",
}  # fmt: skip
"""What the RMSE is shown against."""


def sections(report: SearchReport, winner: int | None, timed_on: str | None) -> list[Section]:
    """The sections. winner: a trial's number, if there is one. timed_on: see `Report`."""
    rows = ranked(report["rows"])
    found = [Section("search", "Search", _search(report, rows, winner))]
    if any(rung["reached"] for rung in report["rungs"]):
        found.append(Section("rungs", "Rungs", _rungs(report, rows)))
    full = [row for row in rows if row["state"] == "completed"]
    found.append(Section("hyperparameters", "Hyperparameters", _slices(report, rows, full)))
    found.append(Section("importance", "Importance of hyperparameters", _importance(report)))
    found.append(
        Section("pareto", "RMSE against size, time and cost", _pareto(report, full, timed_on))
    )
    return found


def ranked(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """The best rows first: full-budget trials, then the longest-lived; `MAX_ROWS` at most."""
    best = sorted(
        rows,
        key=lambda row: (
            row["validation_rmse"] is None or row["state"] == "failed",
            -len(row["validation_rmse_by_epoch"]),
            row["validation_rmse"] or 0.0,
            row["number"],
        ),
    )
    return best[:MAX_ROWS]


def _search(report: SearchReport, rows: list[TrialRow], winner: int | None) -> list[Block]:
    rmse = heading(report, "validation RMSE")
    return [
        Text("\n\n".join([*_earlier(report["run"].get("earlier_reports", [])), _words(report)])),
        Text(_failures(report["trials"]["failures"])),
        Chart(
            "curves",
            "Validation RMSE of every trial by epoch",
            search_charts.learning_curves(rows, winner, rmse),
        ),
        *_incumbents(report, rmse),
        Text(f"### All trials\n\n{_about_rows(report)}"),
        _table(report, rows, winner),
    ]


def _words(report: SearchReport) -> str:
    trials, search = report["trials"], report["space"]["search"]
    total = sum(trials[word] for word in ENDED)
    at_most = "" if is_sums(report) else "at most "
    running = sum(row["state"] == "running" for row in report["rows"])
    share = report["compute"]["asha_saved_share"]
    saved = (
        f" Early stopping saved {percent(share)} of the epochs that the completed and stopped ones "
        "would have trained at their full budget."
    )
    return (
        f"{total} trials of at most {search['max_epochs']} epochs of {at_most}"
        f"{search['epoch_sequences']:,} sequences: {trials['completed']} completed, "
        f"{trials['stopped']} stopped early{cut(trials)}, {trials['failed']} failed"
        f"{f', {running} not ended' if running else ''}."
        f"{saved if share is not None else ''} Infeasible samples, "
        f"drawn again: {trials['infeasible']}."
    )


def cut(trials: Mapping[str, Any]) -> str:
    """How many trials the end of the search cut, if any."""
    return f", {trials['cut']} cut when the search ended" if trials["cut"] else ""


def _earlier(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """A note that test images may have decided whether to extend the search."""
    if not reports:
        return []
    earlier = ", ".join(
        f"{number(item['rmse'])} after {item['trials']} trials "
        f"(95 % interval {interval(item['rmse_interval'])})"
        for item in reports
    )
    return [
        "This search was extended after a report had opened the test images: test RMSE "
        f"{earlier}. Every choice in it was still made on validation images; whether to extend it "
        "was not."
    ]


def _failures(failures: Sequence[Mapping[str, Any]]) -> str:
    if not failures:
        return "No trial failed."
    lines = [f"- {item['count']} × {code(item['reason'])}" for item in failures[:MAX_REASONS]]
    others = sum(item["count"] for item in failures[MAX_REASONS:])
    if others:
        lines.append(f"- {others} for other reasons, all in report.json")
    return "Why trials failed:\n\n" + "\n".join(lines)


def _incumbents(report: SearchReport, rmse: str) -> list[Block]:
    """The best trial so far, over trials and over compute."""
    found, compute = report["incumbents"], report["compute"]
    if not found:
        return []
    trials = sum(report["trials"][word] for word in ENDED)
    key = "gpu_seconds" if any(row["gpu_seconds"] for row in report["rows"]) else "core_seconds"
    spent = sum(compute[key][word] for word in ("completed", "stopped", "failed"))  # type: ignore[literal-required]
    hours = "GPU hours" if key == "gpu_seconds" else "core-hours"
    return [
        Chart(
            f"incumbents-{name}",
            f"The best full-budget trial over {x}",
            search_charts.incumbents({"best so far": (found, end)}, name, x, rmse),
            wide=False,
        )
        for name, x, end in (("trials", "ended trials", trials), (key, hours, spent))
    ]


def _about_rows(report: SearchReport) -> str:
    shown, total = min(MAX_ROWS, len(report["rows"])), len(report["rows"])
    some = "" if shown == total else f" The best {shown} of {total}; all are in report.json."
    return (
        "An RMSE is that after the epochs beside it: only trials with the full budget compare."
        f"{some}"
    )


def _table(report: SearchReport, rows: Sequence[TrialRow], winner: int | None) -> TrialTable:
    names = [axis["name"] for axis in report["axes"]]
    rmse = heading(report, "RMSE")
    cells = [
        [
            Cell(f"{row['number']}{' (winner)' if row['number'] == winner else ''}", row["number"]),
            Cell(row["state"], row["state"]),
            Cell(str(row["epochs"]), row["epochs"]),
            _cell(row["validation_rmse"]),
            Cell("–" if row["parameters"] is None else f"{row['parameters']:,}", row["parameters"]),
            Cell(time(row["core_seconds"]), row["core_seconds"]),
            *(_cell(row["values"][name]) for name in names),
        ]
        for row in rows
    ]
    columns = ["trial", "state", "epochs", rmse, "parameters", "core time", *names]
    return TrialTable("All trials", columns, cells, [config_of(row) for row in rows])


def _cell(value: Any) -> Cell:
    if value is None or isinstance(value, str):
        return Cell(value or "–", value)
    return Cell(f"{value:,}" if isinstance(value, int) else number(value), value)


def config_of(row: TrialRow) -> str:
    """A trial's configuration as an entry of `first` in a search space file."""
    text = yaml.safe_dump(row["config"], sort_keys=False, default_flow_style=True, width=10**6)
    return f"- {text.strip()}"


def _rungs(report: SearchReport, rows: Sequence[TrialRow]) -> list[Block]:
    found = report["rungs"]
    lines = [
        [
            str(rung["epochs"]), str(rung["reached"]), str(rung["continued"]),
            number(rung["best"]), number(rung["median"]),
        ]
        for rung in found
    ]  # fmt: skip
    factor = report["space"]["search"]["reduction_factor"]
    return [
        Text(
            f"At each rung about the best 1/{factor} of the trials that have reached it so far "
            "continue."
        ),
        Chart(
            "rungs",
            "Validation RMSE of each trial at each rung",
            search_charts.rungs(rows, found, heading(report, "validation RMSE")),
        ),
        Text(table(["epochs", "reached", "continued", "best RMSE", "median RMSE"], lines)),
    ]


def _slices(
    report: SearchReport, rows: Sequence[TrialRow], full: Sequence[TrialRow]
) -> list[Block]:
    """Parallel coordinates, and the RMSE by each searched hyperparameter."""
    rmse = heading(report, "validation RMSE")
    varied = [
        axis for axis in report["axes"] if len({str(r["values"][axis["name"]]) for r in rows}) > 1
    ]
    if not full or not varied:
        return [Text("Left out: no trial has completed its full budget, or nothing varies.")]
    blocks: list[Block] = [
        Text(
            f"The {len(full)} trials with the full budget. Values of trials that were stopped are "
            "of fewer epochs: a click on the legend shows them, too. The charts are in report.html."
        )
    ]
    if len(full) > 1:
        figure = search_charts.parallel(full, varied, rmse)
        blocks.append(Chart("parallel", "Full-budget trials in parallel coordinates", figure))
    return blocks + [
        Chart(
            f"slice-{place}",
            f"Validation RMSE by {axis['name']}",
            search_charts.slice_of(rows, axis, rmse),
            wide=False,
        )
        for place, axis in enumerate(varied)
    ]


def _importance(report: SearchReport) -> list[Block]:
    shares, note = report["importance"], report["importance_note"]
    if shares is None:
        return [Text(f"Missing: {note}.")]
    rows = [
        [
            f"`{item['name']}`", percent(item["share"]),
            f"{percent(item['interval'][0])} to {percent(item['interval'][1])}",
        ]
        for item in shares
    ]  # fmt: skip
    warm = (
        " The dashboard takes in the trials of the warm start, too."
        if report["run"].get("warm_start")
        else ""
    )
    return [
        Chart("importance", "Importance of hyperparameters", search_charts.importance(shares)),
        Text(table(["hyperparameter", "share", "90 % interval"], rows)),
        Text(f"{note}.{warm}"),
    ]


def _pareto(report: SearchReport, full: list[TrialRow], timed_on: str | None) -> list[Block]:
    """The RMSE of full-budget trials against what they need."""
    costs = {
        key: words
        for key, words in _COSTS.items()
        if any(row[key] for row in full)  # type: ignore[literal-required]
    }
    if not costs:
        return [Text("Left out: no trial has completed its full budget.")]
    rmse = heading(report, "validation RMSE")
    fronts = {
        key: search_charts.front([r for r in full if r[key] is not None], key)  # type: ignore[literal-required]
        for key in costs
    }
    best = {row["number"]: row for some in fronts.values() for row in some}
    charts = [
        Chart(
            f"pareto-{key}",
            f"Validation RMSE against {words}",
            search_charts.pareto(full, key, words, rmse),
            wide=False,
        )
        for key, words in costs.items()
    ]
    rows = [
        [
            f"{row['number']}", number(row["validation_rmse"]),
            *("–" if row[key] is None else number(row[key]) for key in costs),  # type: ignore[literal-required]
            ", ".join(_COSTS[key].split(" of ")[0] for key in costs if row in fronts[key]),
        ]
        for row in sorted(best.values(), key=lambda row: row["number"])
    ]  # fmt: skip
    return [
        Text(_about_costs(full, timed_on)),
        *charts,
        Configs({str(row["number"]): config_of(row) for row in full}),
        Text(table(["trial", plain(rmse), *costs.values(), "on the front of"], rows)),
    ]


def _about_costs(full: Sequence[TrialRow], timed_on: str | None) -> str:
    """What a front is, and how milliseconds were measured."""
    note = (
        "Trials with the full budget, in the search. A front has those that no other trial beats."
    )
    timed = sum(row["ms_per_sequence"] is not None for row in full)
    if timed:
        note += (
            f" Milliseconds are measured: CPU time of one thread of {plain(timed_on or 'this CPU')}"
            " for a sequence of the longest length in a batch of 64, in float32, for the best "
            f"{timed} trials."
        )
    return note
