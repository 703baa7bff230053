"""The report in words: Markdown and the terminal's summary, of `report.json`'s content alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from crnn_search.hyperparameters import Arithmetic
from crnn_search.results import comparison
from crnn_search.results.formatting import (
    block,
    code,
    deviation,
    interval,
    number,
    percent,
    plain,
    r2,
    seeds,
    table,
    time,
    times,
)
from crnn_search.results.words import (
    LEARNING_CURVES,
    LENGTH_ONLY,
    Report,
    amount,
    heading,
    is_sums,
    length_only,
    network,
    one_line,
)
from crnn_search.storage.ledger import ENDED

MAX_REASONS = 10
"""How many reasons of failures are listed; the other failures are counted."""

MAX_NAMES = 5
"""How many trials are named in a warning."""


def render(report: Report) -> str:
    """The report in Markdown."""
    sections = [
        _headline(report),
        *_data_warnings(report),
        comparison.comparison(report),
        *comparison.lengths(report),
        comparison.predicted(report),
        *comparison.data(report),
        _configuration(report),
        _finalists(report),
        _search(report),
        _importance(report),
        _reproduce(report),
    ]
    return "\n\n".join(sections) + "\n"


def summary(report: Report) -> str:
    """The result in some fifteen lines of plain text, for the terminal."""
    test, task = report["test"], report["task"]
    rmse = f"{amount(report, test['rmse'])}  (95 % interval {interval(test['rmse_interval'])})"
    rows = [
        ("test RMSE", rmse),
        ("", f"{seeds(test)}, {test['sequences']:,} sequences of {test['images']:,} images"),
        ("exported model", f"{amount(report, test['exported_rmse'])}  (first seed)"),
        *_quality(report),
        *_baseline_rows(report),
        *_search_rows(report),
    ]
    if len(report["arithmetics"]) > 1:
        rows.append(("WARNING", "trials trained in different arithmetics, see the report"))
    rows += [("WARNING", f"data: {one_line(text)}") for text in _warnings(report)]
    body = "\n".join(f"  {name:<15} {text}".rstrip() for name, text in rows)
    learned = f"{one_line(task['name'])}: {one_line(task['target'])}"
    if is_sums(report):
        learned = f"sums of 1 to {task['longest']} digits"
    return f"{report['run']['name']}: {learned}\n{body}"


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
    trials = report["trials"]
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
        ("early stopping", f"saved {percent(report['compute']['asha_saved_share'])} of the epochs"),
        ("time", times(report["seconds"])),
    ]


def _warnings(report: Report) -> list[str]:
    """What is doubtful in the data."""
    return report["data"]["warnings"] if report["data"] else []


def _data_warnings(report: Report) -> list[str]:
    return [f"**Warning: {plain(text)}**" for text in _warnings(report)]


def _cut(trials: Mapping[str, Any]) -> str:
    return f", {trials['cut']} cut when the search ended" if trials["cut"] else ""


def _baseline(report: Report, name: str) -> str:
    """The RMSE of a baseline, not yet Markdown."""
    return amount(report, report["baselines"][name]["rmse"])


def _headline(report: Report) -> str:
    test, task = report["test"], report["task"]
    learned, by_length = f"{code(task['target'])} of {code(task['name'])}", ""
    if is_sums(report):
        learned = f"the sum of 1 to {task['longest']} handwritten digits"
    if key := length_only(report):
        seen = "counting the digits" if is_sums(report) else "least squares on the length"
        by_length = f", {seen} {plain(_baseline(report, key))}"
    return (
        f"# crnn-search report: {plain(report['run']['name'])}\n\n"
        f"**The retrained winner predicts {learned} with an RMSE of "
        f"{plain(amount(report, test['rmse']))} (95 % interval "
        f"{interval(test['rmse_interval'])}; {seeds(test)}; {test['sequences']:,} sequences of "
        f"{test['images']:,} test images), where the {network(report)} has "
        f"{plain(_baseline(report, report['baseline_name']))}{by_length} and guessing the mean "
        f"{plain(_baseline(report, 'mean_guess'))}.**"
    )


def _configuration(report: Report) -> str:
    text = yaml.safe_dump(report["best_config"], sort_keys=False, default_flow_style=None)
    return (
        f"## The winning configuration\n\nTrial {report['best_trial']}, "
        f"{report['best_parameters']:,} parameters, validation RMSE "
        f"{plain(amount(report, report['best_validation_rmse']))}.\n\n```yaml\n{text}```"
    )


def _finalists(report: Report) -> str:
    rows = [
        [
            f"trial {item['number']}",
            number(item["search_validation_rmse"]),
            _repeated(item),
            deviation([rmse for rmse in item["validation_rmse_by_seed"] if rmse is not None]),
            str(len(item["validation_rmse_by_seed"])),
        ]
        for item in report["finalists"]
    ]
    header = ["", "in the search", "repeated, mean", "SD over seeds", "new seeds"]
    return (
        f"## Finalists\n\n{plain(heading(report, 'Validation RMSE'))}. The best of many trials "
        "owes some of its figure to luck; the winner is the finalist with the lowest mean over new "
        "seeds, or the only one.\n\n" + table(header, rows)
    )


def _repeated(finalist: Mapping[str, Any]) -> str:
    if finalist["validation_rmse"] is None:
        return f"failed: {code(finalist['failure'])}"
    repeated = finalist["validation_rmse_by_seed"]
    return number(finalist["validation_rmse"]) if repeated else "not repeated"


def _search(report: Report) -> str:
    trials, search = report["trials"], report["space"]["search"]
    total = sum(trials[word] for word in ENDED)
    at_most = "" if is_sums(report) else "at most "
    return "\n\n".join(
        [
            "## Search",
            *_earlier(report["run"].get("earlier_reports", [])),
            f"{total} trials of at most {search['max_epochs']} epochs of {at_most}"
            f"{search['epoch_sequences']:,} sequences: {trials['completed']} completed, "
            f"{trials['stopped']} stopped early{_cut(trials)}, {trials['failed']} failed. Early "
            "stopping saved "
            f"{percent(report['compute']['asha_saved_share'])} of the epochs that the completed "
            "and stopped ones would have trained at their full budget. Infeasible samples, "
            f"drawn again: {trials['infeasible']}.",
            _failures(trials["failures"]),
            *_different_arithmetics(report["arithmetics"]),
            _compute(report),
            f"![Validation RMSE by epoch of every trial](plots/{LEARNING_CURVES})",
        ]
    )


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


def _different_arithmetics(names: Mapping[str, Sequence[str]]) -> list[str]:
    """A warning if trials trained in more than one arithmetic. names: of the trials, by it."""
    if len(names) < 2:
        return []
    parts = []
    for arithmetic, trials in sorted(names.items(), key=lambda item: -len(item[1])):
        more = f" and {len(trials) - MAX_NAMES} more" if len(trials) > MAX_NAMES else ""
        parts.append(f"{len(trials)} in {arithmetic} ({', '.join(trials[:MAX_NAMES])}{more})")
    return [
        "**Warning: trials trained in different arithmetics**, so that their RMSEs differ by more "
        f"than their configurations and seeds: {'; '.join(parts)}."
    ]


def _compute(report: Report) -> str:
    cores, gpus = report["compute"]["core_seconds"], report["compute"]["gpu_seconds"]
    words = {
        "completed": "completed trials",
        "stopped": "trials stopped early",
        "failed": "failed trials",
        "finalists": "finalists, repeated",
        "retrain": f"retraining of winner and {network(report)}",
    }
    rows = [[text, time(cores[key]), time(gpus[key])] for key, text in words.items()]
    return (
        table(["compute spent on", "core time", "GPU time"], rows)
        + f"\n\nWall time: {times(report['seconds'])}."
    )


def _importance(report: Report) -> str:
    shares, note = report["importance"], report["importance_note"]
    if shares is None:
        return f"## Importance of hyperparameters\n\nMissing: {note}."
    rows = [[f"`{name}`", percent(share)] for name, share in shares.items()]
    return (
        f"## Importance of hyperparameters\n\n{table(['hyperparameter', 'share'], rows)}\n\n{note}."
    )


def _reproduce(report: Report) -> str:
    run = report["run"]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    lines = [
        f"- started: {run['created']}",
        f"- commit: {run['git_commit'] or 'missing, not run from a checkout'}",
        f"- seed: {run['seed']}",
        f"- arithmetic: {_arithmetic(report)}",
        f"- versions: {versions}",
        *_data_digests(report),
        *(f"- node: {_node(node)}" for node in run["hardware"]["nodes"]),
    ]
    return f"## How to reproduce\n\n{block(run['command'])}\n\n" + "\n".join(lines)


def _data_digests(report: Report) -> list[str]:
    """What identifies a data set of the user's own; the packages' versions identify MNIST."""
    digests = {} if is_sums(report) else report["run"]["data_sha256"]
    return [f"- data: {name}, SHA-256 {digest}" for name, digest in digests.items()]


def _arithmetic(report: Report) -> str:
    """What the run's trials had to train in, and what they did train in."""
    stated, used = str(Arithmetic(**report["arithmetic"])), list(report["arithmetics"])
    difference = "" if used == [stated] else f"; really used: {' and '.join(used) or 'none'}"
    return f"{stated}{difference}; test predictions in float32"


def _node(node: Mapping[str, Any]) -> str:
    return (
        f"CPU {plain(node['cpu_model'] or 'model missing')}, cores {node['cpus']:g}, "
        f"GPUs {node['gpus']:g}, memory {node['memory_gb']:g} GB"
    )
