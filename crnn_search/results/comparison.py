"""The sections of the report on data, test result and baselines, of `report.json`'s content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crnn_search.results.formatting import code, interval, number, percent, plain, r2, spread, table
from crnn_search.results.words import (
    LENGTH_ONLY,
    PREDICTED,
    RMSE_BY_LENGTH,
    Report,
    amount,
    heading,
    is_sums,
    length_only,
    lengths_vary,
    network,
)

_LONGER = {
    "drop": "was not trained on them",
    "first": "was trained on their first images",
    "last": "was trained on their last images",
}
"""What became of training sequences that are longer than the winner's `max_sequence_length`."""

_TARGETS = {
    "mean": "mean", "std": "SD", "min": "least", "q25": "25 %", "median": "median", "q75": "75 %",
    "max": "greatest",
}  # fmt: skip
"""What is shown of the distribution of targets."""


def comparison(report: Report) -> str:
    """The test result beside the baselines."""
    columns = ["95 % interval", "SD over seeds"]
    columns += ["exact sums"] if is_sums(report) else [plain(heading(report, "MAE")), "R²"]
    rows = [[name, *_score_cells(report, score)] for name, score in _named(report).items()]
    rows += [
        [f"{item['name']} (published, other sequences)", f"{item['rmse']:g}", "–", "–", "–"]
        for item in report["baselines"].get("published", [])
    ]
    exported = plain(amount(report, report["test"]["exported_rmse"]))
    return "\n\n".join(
        [
            "## Test result and baselines",
            table(["", plain(heading(report, "RMSE")), *columns], rows),
            f"Winner and {network(report)} had the same budget: {_budget(report)}. "
            + _improvement(report),
            f"The exported model is that of the first seed, chosen before any was scored: RMSE "
            f"{exported}.",
            _intervals(report),
        ]
    )


def _named(report: Report) -> dict[str, Mapping[str, Any]]:
    """The scores of the comparison by their names."""
    baselines, named = report["baselines"], {"**retrained winner**": report["test"]}
    whose = "mnistCRNN's" if report["baseline_name"] == "mnist_crnn_2016" else "the"
    trained = f"{whose} {network(report)}, trained in this run"
    named[trained] = baselines[report["baseline_name"]]
    if is_sums(report):
        named["count only: the mean digit × length"] = baselines["count_only"]
        named["guess the mean sum"] = baselines["mean_guess"]
        return named
    if "length_only" in baselines:
        named["least squares on the length, in training and validation"] = baselines["length_only"]
    named["guess the mean of training and validation"] = baselines["mean_guess"]
    return named


def _score_cells(report: Report, score: Mapping[str, Any]) -> list[str]:
    cells = [number(score["rmse"]), interval(score["rmse_interval"]), spread(score)]
    if is_sums(report):
        return [*cells, percent(score["exact_sum_rate"])]
    return [*cells, number(score["mae"]), r2(score["r2"])]


def _budget(report: Report) -> str:
    retrained = report["retrained"]
    epochs, drawn = retrained["epochs"], retrained["epoch_sequences"]
    if is_sums(report):
        return f"{epochs} epochs of {drawn:,} sequences of all 60,000 training images"
    data = report["data"]
    known = data["targets"]["training and validation"]["sequences"]
    of = f"all {known:,}" if drawn >= known else f"{drawn:,} of the {known:,}"
    some = " that are not too long" if data["longer"] == "drop" and data["longer_sequences"] else ""
    return f"{epochs} epochs of {of} sequences of training and validation{some}"


def _improvement(report: Report) -> str:
    difference = report["improvement"]
    if report["best_config"] == report["baseline_config"]:
        return "They are the same network: the search found none better."
    ratio = "missing" if difference["ratio"] is None else f"{difference['ratio']:.2f}"
    return (
        f"On the same sequences, the RMSE of the {network(report)} less the winner's is "
        f"{plain(amount(report, difference['difference']))} (95 % interval, paired, "
        f"{interval(difference['interval'])}); the ratio of the two is {ratio}."
    )


def _intervals(report: Report) -> str:
    """How intervals are computed, and what they cover."""
    groups, sequences = report["test"]["groups"], report["test"]["sequences"]
    if groups is None:
        return (
            "Intervals resample test *images*, not sequences (infinitesimal jackknife), because "
            "sequences share images and a few misread ones decide the score, and add the spread "
            "between seeds; they cover other test images and other seeds, not another search, task "
            "or data set."
        )
    if groups == 1:
        return "Intervals are missing: all test sequences are of one group."
    units = "sequences" if groups == sequences else "groups"
    why = ", not sequences, because those of a group are alike" if units == "groups" else ""
    return (
        f"Intervals resample the {groups:,} test *{units}*{why} (infinitesimal jackknife), and add "
        f"the spread between seeds; they cover other {units} and other seeds, not another search, "
        "task or data set."
    )


def lengths(report: Report) -> list[str]:
    """RMSE by length; nothing where all sequences of a user's own data have the same."""
    if not lengths_vary(report):
        return []
    test, baselines, sums = report["test"], report["baselines"], is_sums(report)
    others = {network(report): report["baseline_name"]}
    if key := length_only(report):
        others[LENGTH_ONLY[key]] = key
    rows = [
        [
            length,
            *([] if sums else [f"{test['sequences_by_length'][length]:,}"]),
            number(rmse),
            interval(test["rmse_interval_by_length"][length]),
            *(number(baselines[key]["rmse_by_length"][length]) for key in others.values()),
        ]
        for length, rmse in test["rmse_by_length"].items()
    ]
    header = ["digits"] if sums else ["images", "sequences"]
    header += ["winner", "95 % interval", *others]
    binned = any("–" in length for length in test["rmse_by_length"])
    note = "Bins of lengths hold about equally many test sequences.\n\n" if binned else ""
    title = plain(heading(report, "Test RMSE by length"))
    return [
        f"## {title}\n\n{note}{table(header, rows)}\n\n"
        f"![Test RMSE by length](plots/{RMSE_BY_LENGTH})"
    ]


def predicted(report: Report) -> str:
    """Predicted against true."""
    test = report["test"]
    return (
        f"## Predicted against true\n\n![Predicted against true](plots/{PREDICTED})\n\n"
        "The exported model on every test sequence. Over all seeds, the mean absolute error is "
        f"{plain(amount(report, test['mae']))} and R² is {r2(test['r2'])}: 1 less the mean squared "
        "error over the variance of the test targets."
    )


def data(report: Report) -> list[str]:
    """What is in a data set of the user's own: facts, the target's distribution, long sequences."""
    found = report["data"]
    if found is None:
        return []
    facts = [[plain(name), plain(value)] for name, value in found["facts"]]
    rows = [
        [split, f"{values['sequences']:,}", *(number(values[name]) for name in _TARGETS)]
        for split, values in found["targets"].items()
    ]
    header = [plain(heading(report, report["task"]["target"])), "sequences", *_TARGETS.values()]
    return [
        "\n\n".join(
            [
                f"## Data\n\n{code(report['task']['name'])}:",
                table(["", "found"], facts, align="---"),
                table(header, rows),
                _longer(report),
            ]
        )
    ]


def _longer(report: Report) -> str:
    """What became of sequences that are longer than the winner's `max_sequence_length`."""
    limit, found = report["best_config"]["max_sequence_length"], report["data"]
    longer = f"{found['longer_sequences']:,} sequences of training and validation have more images"
    if not found["longer_sequences"]:
        longer = "No sequence of training and validation has more images"
    rule = found["longer"]
    outcome = f"; the winner {_LONGER[rule]}" if found["longer_sequences"] else ""
    return (
        f"{longer} than the winner's `max_sequence_length`, {limit:,}{outcome} (`longer: {rule}`). "
        "Validation in the search, and the test, are of whole sequences."
    )
