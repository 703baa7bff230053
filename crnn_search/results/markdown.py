"""The report in words: Markdown and the terminal's summary, of `report.json`'s content alone."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from crnn_search.hyperparameters import MNIST_CRNN_2016
from crnn_search.results.scores import Score

Report = dict[str, Any]

SHOWN_FAILURES = 10
"""So many reasons of failures are written out; the other failures are counted."""

LEARNING_CURVES = "learning_curves.png"
RMSE_BY_LENGTH = "rmse_by_length.png"


def render(report: Report) -> str:
    """Markdown made of `report.json`'s content alone."""
    sections = (
        _headline, _comparison, _lengths, _configuration, _finalists, _search, _importance,
        _reproduce,
    )  # fmt: skip
    return "\n\n".join(section(report) for section in sections) + "\n"


def summary(report: Report) -> str:
    """The result in some fifteen lines of plain text, for the terminal."""
    test, base, trials = report["test"], report["baselines"], report["trials"]
    rows = {
        "test RMSE": f"{_number(test['rmse'])}  (95 % interval {_interval(test['rmse_interval'])})",
        "": f"{_seeds(test)}, {test['sequences']:,} sequences of {test['images']:,} images",
        "exported model": f"{_number(test['exported_rmse'])}  (first seed)",
        "exact sums": _percent(test["exact_sum_rate"]),
        "2016 network": f"{_number(base['mnist_crnn_2016_rmse'])}  (same run, same budget)",
        "count only": _number(base["count_only_rmse"]),
        "guess the mean": _number(base["mean_guess_rmse"]),
        "winner": f"trial {report['best_trial']}, {report['best_parameters']:,} parameters, "
        f"validation RMSE {_number(report['best_validation_rmse'])}",
        "trials": f"{trials['completed']} completed, {trials['stopped']} stopped early, "
        f"{trials['failed']} failed",
        "early stopping": f"saved {_percent(report['compute']['asha_saved_share'])} of the epochs",
        "time": _stages(report["seconds"]),
    }
    body = "\n".join(f"  {name:<15} {text}".rstrip() for name, text in rows.items())
    max_digits = report["space"]["task"]["max_digits"]
    return f"{report['run']['name']}: sums of 1 to {max_digits} digits\n{body}"


def _headline(report: Report) -> str:
    test, base = report["test"], report["baselines"]
    return (
        f"# crnn-search report: {report['run']['name']}\n\n"
        f"**The retrained winner predicts the sum of 1 to {report['space']['task']['max_digits']} "
        f"handwritten digits with an RMSE of {_number(test['rmse'])} (95 % interval "
        f"{_interval(test['rmse_interval'])}; {_seeds(test)}; {test['sequences']:,} sequences of "
        f"{test['images']:,} test images), where the network of 2016 has "
        f"{_number(base['mnist_crnn_2016_rmse'])}, counting the digits "
        f"{_number(base['count_only_rmse'])} and guessing the mean "
        f"{_number(base['mean_guess_rmse'])}.**"
    )


def _comparison(report: Report) -> str:
    test, base, retrained = report["test"], report["baselines"], report["retrained"]
    named = {
        "**retrained winner**": test,
        "mnistCRNN's network of 2016, trained in this run": unprefixed("mnist_crnn_2016", base),
        "count only: the mean digit × length": unprefixed("count_only", base),
        "guess the mean sum": unprefixed("mean_guess", base),
    }
    rows = [
        [
            name,
            _number(score["rmse"]),
            _interval(score["rmse_interval"]),
            _spread(score),
            _percent(score["exact_sum_rate"]),
        ]
        for name, score in named.items()
    ]
    rows += [
        [f"{item['name']} (published, other sequences)", f"{item['rmse']:g}", "–", "–", "–"]
        for item in base["published"]
    ]
    return "\n\n".join(
        [
            "## Test result and baselines",
            _table(["", "RMSE", "95 % interval", "SD over seeds", "exact sums"], rows),
            f"Winner and network of 2016 had the same budget: {retrained['epochs']} epochs of "
            f"{retrained['epoch_sequences']:,} sequences of all 60,000 training images. "
            + _improvement(report),
            "The exported model is that of the first seed, fixed before any was scored: RMSE "
            f"{_number(test['exported_rmse'])}.",
            "Intervals resample test *images*, not sequences (infinitesimal jackknife), because "
            "sequences share images and a few misread ones decide the score, and add the spread "
            "between seeds; they cover other test images and other seeds, not another search, task "
            "or data set.",
        ]
    )


def _improvement(report: Report) -> str:
    difference = report["improvement"]
    if report["best_config"] == MNIST_CRNN_2016.to_dict():
        return "They are the same network: the search found none better."
    if difference is None:
        return "The difference between them is missing: the network of 2016 was not trained."
    ratio = "missing" if difference["ratio"] is None else f"{difference['ratio']:.2f}"
    return (
        "On the same sequences, the RMSE of the network of 2016 less the winner's is "
        f"{_number(difference['difference'])} (95 % interval, paired, "
        f"{_interval(difference['interval'])}); the ratio of the two is {ratio}."
    )


def _lengths(report: Report) -> str:
    test = report["test"]
    other = unprefixed("mnist_crnn_2016", report["baselines"])
    blind = unprefixed("count_only", report["baselines"])
    rows = [
        [
            length,
            _number(rmse),
            _interval(test["rmse_interval_by_length"][length]),
            _number((other["rmse_by_length"] or {}).get(length)),
            _number(blind["rmse_by_length"][length]),
        ]
        for length, rmse in test["rmse_by_length"].items()
    ]
    header = ["digits", "winner", "95 % interval", "network of 2016", "count only"]
    return (
        f"## Test RMSE by length\n\n{_table(header, rows)}\n\n"
        f"![Test RMSE by length](plots/{RMSE_BY_LENGTH})"
    )


def _configuration(report: Report) -> str:
    text = yaml.safe_dump(report["best_config"], sort_keys=False, default_flow_style=None)
    return (
        f"## The winning configuration\n\nTrial {report['best_trial']}, "
        f"{report['best_parameters']:,} parameters, validation RMSE "
        f"{_number(report['best_validation_rmse'])}.\n\n```yaml\n{text}```"
    )


def _finalists(report: Report) -> str:
    finalists = report["finalists"]
    if finalists is None:
        return "## Finalists\n\nMissing: the run has no finalists.json."
    rows = [
        [
            f"trial {item['number']}",
            _number(item["search_rmse"]),
            _repeated(item),
            _deviation([value for value in item["rmse_by_seed"] if value is not None]),
            str(len(item["rmse_by_seed"])),
        ]
        for item in finalists
    ]
    header = ["", "in the search", "repeated, mean", "SD over seeds", "new seeds"]
    return (
        "## Finalists\n\nValidation RMSE. The best of many trials owes some of its figure to luck; "
        "the winner is the finalist with the lowest mean over new seeds, or the only one.\n\n"
        + _table(header, rows)
    )


def _repeated(finalist: Mapping[str, Any]) -> str:
    if finalist["rmse"] is None:
        return f"out: {_code(finalist['failure'])}"
    return _number(finalist["rmse"]) if finalist["rmse_by_seed"] else "not repeated"


def _search(report: Report) -> str:
    trials, search = report["trials"], report["space"]["search"]
    total = trials["completed"] + trials["stopped"] + trials["failed"]
    return "\n\n".join(
        [
            "## Search",
            *_earlier(report["run"].get("earlier_reports", [])),
            f"{total} trials of at most {search['max_epochs']} epochs of "
            f"{search['epoch_sequences']:,} sequences: {trials['completed']} completed, "
            f"{trials['stopped']} stopped early, {trials['failed']} failed. Early stopping left "
            f"out {_percent(report['compute']['asha_saved_share'])} of the epochs that the "
            "completed and stopped ones would have taken at their full budget. Sampled networks "
            f"that cannot be built, and were passed over: {trials['infeasible']}.",
            _failures(trials["failures"]),
            _spent(report),
            f"![Validation RMSE by epoch of every trial](plots/{LEARNING_CURVES})",
        ]
    )


def _earlier(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """That somebody may have chosen to go on because of what the test images said."""
    if not reports:
        return []
    told = ", ".join(
        f"{_number(item['rmse'])} after {item['trials']} trials "
        f"(95 % interval {_interval(item['rmse_interval'])})"
        for item in reports
    )
    return [
        f"This search was extended after a report had opened the test images: test RMSE {told}. "
        "Every choice in it was still made on validation images; whether to go on was not."
    ]


def _failures(failures: Sequence[Mapping[str, Any]]) -> str:
    if not failures:
        return "No trial failed."
    lines = [f"- {item['count']} × {_code(item['reason'])}" for item in failures[:SHOWN_FAILURES]]
    others = sum(item["count"] for item in failures[SHOWN_FAILURES:])
    if others:
        lines.append(f"- {others} for other reasons, all in report.json")
    return "Why trials failed:\n\n" + "\n".join(lines)


def _spent(report: Report) -> str:
    cores, gpus = report["compute"]["core_seconds"], report["compute"]["gpu_seconds"]
    words = {
        "completed": "completed trials",
        "stopped": "trials stopped early",
        "failed": "failed trials",
        "finalists": "finalists, repeated",
        "retrain": "retraining of winner and network of 2016",
    }
    rows = [[text, _duration(cores[key]), _duration(gpus[key])] for key, text in words.items()]
    return (
        _table(["compute spent on", "core time", "GPU time"], rows)
        + f"\n\nWall time: {_stages(report['seconds'])}."
    )


def _importance(report: Report) -> str:
    shares, note = report["importance"], report["importance_note"]
    if shares is None:
        return f"## Importance of hyperparameters\n\nMissing: {note}."
    rows = [[f"`{name}`", _percent(share)] for name, share in shares.items()]
    return (
        f"## Importance of hyperparameters\n\n{_table(['hyperparameter', 'share'], rows)}\n\n"
        f"{note}."
    )


def _reproduce(report: Report) -> str:
    run = report["run"]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    lines = [
        f"- started: {run['created']}",
        f"- commit: {run['git_commit'] or 'missing, not run from a checkout'}",
        f"- seed: {run['seed']}",
        f"- versions: {versions}",
        *(f"- node: {_node(node)}" for node in run["hardware"]["nodes"]),
    ]
    return f"## How to reproduce\n\n```console\n{run['command']}\n```\n\n" + "\n".join(lines)


def _node(node: Mapping[str, Any]) -> str:
    return (
        f"CPU {node['cpu_model'] or 'model missing'}, cores {node['cpus']:g}, "
        f"GPUs {node['gpus']:g}, memory {node['memory_gb']:g} GB"
    )


def unprefixed(name: str, figures: Mapping[str, Any]) -> Report:
    """A score out of `report.json`'s flat baselines."""
    return {f.name: figures[f"{name}_{f.name}"] for f in dataclasses.fields(Score)}


def _seeds(score: Mapping[str, Any]) -> str:
    if score["rmse_std"] is None:
        return "one seed"
    return f"mean of {score['seeds']} seeds, SD {score['rmse_std']:.2g}"


def _spread(score: Mapping[str, Any]) -> str:
    if score["rmse_std"] is None:
        return "–" if score["rmse"] is not None else "missing"
    return f"{score['rmse_std']:.2g} (n = {score['seeds']})"


def _deviation(values: Sequence[float]) -> str:
    return f"{statistics.stdev(values):.2g}" if len(values) > 1 else "–"


def _number(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return "missing"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")


def _interval(pair: Sequence[float] | None) -> str:
    return f"{_number(pair[0])} to {_number(pair[1])}" if pair else "missing"


def _percent(share: float | None) -> str:
    return "missing" if share is None else f"{100 * share:.1f} %"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "missing"
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _stages(seconds: Mapping[str, float] | None) -> str:
    if not seconds:
        return "missing"
    return ", ".join(f"{name} {_duration(value)}" for name, value in seconds.items())


def _code(text: str) -> str:
    """The first line as a code span, in which nothing is markup."""
    return f"`{text.strip().splitlines()[0].replace('`', chr(39))}`"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["--:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
