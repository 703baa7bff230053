"""The report in words: Markdown and the terminal's summary, of `report.json`'s content alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from crnn_search.hyperparameters import MNIST_CRNN_2016, Arithmetic
from crnn_search.results.formatting import (
    block,
    code,
    deviation,
    interval,
    number,
    percent,
    plain,
    seeds,
    spread,
    table,
    time,
    times,
)
from crnn_search.storage.ledger import ENDED

Report = dict[str, Any]

MAX_REASONS = 10
"""How many reasons of failures are listed; the other failures are counted."""

MAX_NAMES = 5
"""How many trials are named in a warning."""

LEARNING_CURVES = "learning_curves.png"
RMSE_BY_LENGTH = "rmse_by_length.png"


def render(report: Report) -> str:
    """The report in Markdown."""
    sections = (
        _headline, _comparison, _lengths, _configuration, _finalists, _search, _importance,
        _reproduce,
    )  # fmt: skip
    return "\n\n".join(section(report) for section in sections) + "\n"


def summary(report: Report) -> str:
    """The result in some fifteen lines of plain text, for the terminal."""
    test, trials = report["test"], report["trials"]
    rows = {
        "test RMSE": f"{number(test['rmse'])}  (95 % interval {interval(test['rmse_interval'])})",
        "": f"{seeds(test)}, {test['sequences']:,} sequences of {test['images']:,} images",
        "exported model": f"{number(test['exported_rmse'])}  (first seed)",
        "exact sums": percent(test["exact_sum_rate"]),
        "2016 network": f"{_baseline(report, 'mnist_crnn_2016')}  (same run, same budget)",
        "count only": _baseline(report, "count_only"),
        "guess the mean": _baseline(report, "mean_guess"),
        "winner": f"trial {report['best_trial']}, {report['best_parameters']:,} parameters, "
        f"validation RMSE {number(report['best_validation_rmse'])}",
        "trials": f"{trials['completed']} completed, {trials['stopped']} stopped early"
        f"{_cut(trials)}, {trials['failed']} failed",
        "early stopping": f"saved {percent(report['compute']['asha_saved_share'])} of the epochs",
        "time": times(report["seconds"]),
    }
    if len(report["arithmetics"]) > 1:
        rows["WARNING"] = "trials trained in different arithmetics, see the report"
    body = "\n".join(f"  {name:<15} {text}".rstrip() for name, text in rows.items())
    max_digits = report["space"]["task"]["max_digits"]
    return f"{report['run']['name']}: sums of 1 to {max_digits} digits\n{body}"


def _cut(trials: Mapping[str, Any]) -> str:
    return f", {trials['cut']} cut by the budget" if trials["cut"] else ""


def _baseline(report: Report, name: str) -> str:
    """The RMSE of a baseline, which may be missing."""
    score = report["baselines"][name]
    return number(score["rmse"] if score else None)


def _headline(report: Report) -> str:
    test = report["test"]
    return (
        f"# crnn-search report: {plain(report['run']['name'])}\n\n"
        f"**The retrained winner predicts the sum of 1 to {report['space']['task']['max_digits']} "
        f"handwritten digits with an RMSE of {number(test['rmse'])} (95 % interval "
        f"{interval(test['rmse_interval'])}; {seeds(test)}; {test['sequences']:,} sequences of "
        f"{test['images']:,} test images), where the network of 2016 has "
        f"{_baseline(report, 'mnist_crnn_2016')}, counting the digits "
        f"{_baseline(report, 'count_only')} and guessing the mean "
        f"{_baseline(report, 'mean_guess')}.**"
    )


def _comparison(report: Report) -> str:
    test, baselines, retrained = report["test"], report["baselines"], report["retrained"]
    named = {
        "**retrained winner**": test,
        "mnistCRNN's network of 2016, trained in this run": baselines["mnist_crnn_2016"],
        "count only: the mean digit × length": baselines["count_only"],
        "guess the mean sum": baselines["mean_guess"],
    }
    rows = [[name, *_score_cells(score)] for name, score in named.items()]
    rows += [
        [f"{item['name']} (published, other sequences)", f"{item['rmse']:g}", "–", "–", "–"]
        for item in baselines["published"]
    ]
    return "\n\n".join(
        [
            "## Test result and baselines",
            table(["", "RMSE", "95 % interval", "SD over seeds", "exact sums"], rows),
            f"Winner and network of 2016 had the same budget: {retrained['epochs']} epochs of "
            f"{retrained['epoch_sequences']:,} sequences of all 60,000 training images. "
            + _improvement(report),
            "The exported model is that of the first seed, chosen before any was scored: RMSE "
            f"{number(test['exported_rmse'])}.",
            "Intervals resample test *images*, not sequences (infinitesimal jackknife), because "
            "sequences share images and a few misread ones decide the score, and add the spread "
            "between seeds; they cover other test images and other seeds, not another search, task "
            "or data set.",
        ]
    )


def _score_cells(score: Mapping[str, Any] | None) -> list[str]:
    known = score or dict.fromkeys(("rmse", "rmse_interval", "exact_sum_rate"))
    return [
        number(known["rmse"]),
        interval(known["rmse_interval"]),
        spread(score),
        percent(known["exact_sum_rate"]),
    ]


def _improvement(report: Report) -> str:
    difference = report["improvement"]
    if report["best_config"] == MNIST_CRNN_2016.to_dict():
        return "They are the same network: the search found none better."
    if difference is None:
        return "The difference between them is missing: the network of 2016 was not trained."
    ratio = "missing" if difference["ratio"] is None else f"{difference['ratio']:.2f}"
    return (
        "On the same sequences, the RMSE of the network of 2016 less the winner's is "
        f"{number(difference['difference'])} (95 % interval, paired, "
        f"{interval(difference['interval'])}); the ratio of the two is {ratio}."
    )


def _lengths(report: Report) -> str:
    test, baselines = report["test"], report["baselines"]
    other = baselines["mnist_crnn_2016"]
    rows = [
        [
            length,
            number(rmse),
            interval(test["rmse_interval_by_length"][length]),
            number(other["rmse_by_length"].get(length) if other else None),
            number(baselines["count_only"]["rmse_by_length"][length]),
        ]
        for length, rmse in test["rmse_by_length"].items()
    ]
    header = ["digits", "winner", "95 % interval", "network of 2016", "count only"]
    return (
        f"## Test RMSE by length\n\n{table(header, rows)}\n\n"
        f"![Test RMSE by length](plots/{RMSE_BY_LENGTH})"
    )


def _configuration(report: Report) -> str:
    text = yaml.safe_dump(report["best_config"], sort_keys=False, default_flow_style=None)
    return (
        f"## The winning configuration\n\nTrial {report['best_trial']}, "
        f"{report['best_parameters']:,} parameters, validation RMSE "
        f"{number(report['best_validation_rmse'])}.\n\n```yaml\n{text}```"
    )


def _finalists(report: Report) -> str:
    finalists = report["finalists"]
    if finalists is None:
        return "## Finalists\n\nMissing: the run has no finalists.json."
    rows = [
        [
            f"trial {item['number']}",
            number(item["search_validation_rmse"]),
            _repeated(item),
            deviation([rmse for rmse in item["validation_rmse_by_seed"] if rmse is not None]),
            str(len(item["validation_rmse_by_seed"])),
        ]
        for item in finalists
    ]
    header = ["", "in the search", "repeated, mean", "SD over seeds", "new seeds"]
    return (
        "## Finalists\n\nValidation RMSE. The best of many trials owes some of its figure to luck; "
        "the winner is the finalist with the lowest mean over new seeds, or the only one.\n\n"
        + table(header, rows)
    )


def _repeated(finalist: Mapping[str, Any]) -> str:
    if finalist["validation_rmse"] is None:
        return f"failed: {code(finalist['failure'])}"
    repeated = finalist["validation_rmse_by_seed"]
    return number(finalist["validation_rmse"]) if repeated else "not repeated"


def _search(report: Report) -> str:
    trials, search = report["trials"], report["space"]["search"]
    total = sum(trials[word] for word in ENDED)
    return "\n\n".join(
        [
            "## Search",
            *_earlier(report["run"].get("earlier_reports", [])),
            f"{total} trials of at most {search['max_epochs']} epochs of "
            f"{search['epoch_sequences']:,} sequences: {trials['completed']} completed, "
            f"{trials['stopped']} stopped early{_cut(trials)}, {trials['failed']} failed. Early "
            "stopping saved "
            f"{percent(report['compute']['asha_saved_share'])} of the epochs that the completed "
            "and stopped ones would have trained at their full budget. Sampled networks that "
            f"cannot be built: {trials['infeasible']}.",
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
        "retrain": "retraining of winner and network of 2016",
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
        *(f"- node: {_node(node)}" for node in run["hardware"]["nodes"]),
    ]
    return f"## How to reproduce\n\n{block(run['command'])}\n\n" + "\n".join(lines)


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
