"""The result in some lines of plain text, for the terminal, of `report.json`'s content alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crnn_search.results.formatting import interval, percent, r2, seeds, times
from crnn_search.results.schema import Doubt, Report
from crnn_search.results.words import LENGTH_ONLY, amount, is_sums, length_only, network, one_line


def summary(report: Report) -> str:
    """The result in some fifteen lines of plain text, for the terminal."""
    test, task = report["test"], report["task"]
    rmse = f"{amount(report, test['rmse'])}  (95 % interval {interval(test['rmse_interval'])})"
    rows = [
        ("test RMSE", rmse),
        ("", f"{seeds(test)}, {test['sequences']:,} sequences of {test['images']:,} images"),
        ("exported model", f"{amount(report, test['exported_rmse'])}  (first seed)"),
        *_ensemble(report),
        *_quality(report),
        *_baseline_rows(report),
        *_search_rows(report),
    ]
    rows += [("WARNING", _warning(doubt)) for doubt in report["warnings"]]
    body = "\n".join(f"  {name:<15} {text}".rstrip() for name, text in rows)
    learned = f"{one_line(task['name'])}: {one_line(task['target'])}"
    if is_sums(report):
        learned = f"sums of 1 to {task['longest']} digits"
    return f"{report['run']['name']}: {learned}\n{body}"


def _ensemble(report: Report) -> list[tuple[str, str]]:
    found = report["ensemble"]
    if found is None:
        return []
    known = f"95 % interval {interval(found['rmse_interval'])}"
    cost = f"{found['networks']} networks, {found['networks']} times the work"
    return [("ensemble", f"{amount(report, found['rmse'])}  ({known}; {cost})")]


def _quality(report: Report) -> list[tuple[str, str]]:
    """What a summary says of predictions beside their RMSE."""
    test = report["test"]
    if is_sums(report):
        return [("exact sums", percent(test["exact_sum_rate"]))]
    return [("MAE", amount(report, test["mae"])), ("R²", r2(test["r2"]))]


def _baseline_rows(report: Report) -> list[tuple[str, str]]:
    name = {"mnist_crnn_2016": "2016 network"}.get(report["baseline_name"], network(report))
    rows = [(name, f"{_baseline(report, report['baseline_name'])}  (same run, same budget)")]
    if key := length_only(report):
        rows.append((LENGTH_ONLY[key], _baseline(report, key)))
    return [*rows, ("guess the mean", _baseline(report, "mean_guess"))]


def _search_rows(report: Report) -> list[tuple[str, str]]:
    trials, share = report["trials"], report["compute"]["asha_saved_share"]
    return [
        (
            "winner",
            f"trial {report['best_trial']}, {report['best_parameters']:,} parameters, "
            f"validation RMSE {amount(report, report['best_validation_rmse'])}",
        ),
        (
            "trials",
            f"{trials['completed']} completed, {trials['stopped']} stopped early"
            f"{_cut(trials)}, {trials['failed']} failed",
        ),
        *(
            [("early stopping", f"saved {percent(share)} of the epochs")]
            if share is not None
            else []
        ),
        ("time", times(report["seconds"])),
    ]


def _warning(doubt: Doubt) -> str:
    if doubt["kind"] == "arithmetic":
        return "trials trained in different arithmetics, see the report"
    return one_line(f"data: {doubt['text']}" if doubt["kind"] == "data" else doubt["text"])


def _cut(trials: Mapping[str, Any]) -> str:
    return f", {trials['cut']} cut when the search ended" if trials["cut"] else ""


def _baseline(report: Report, name: str) -> str:
    """The RMSE of a baseline, not yet Markdown."""
    return amount(report, report["baselines"][name]["rmse"])
