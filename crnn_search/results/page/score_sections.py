"""The sections of the report on the test result: headline, baselines, lengths, errors, data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from crnn_search.results.formatting import (
    code,
    interval,
    number,
    percent,
    plain,
    r2,
    seeds,
    spread,
    table,
)
from crnn_search.results.page import charts
from crnn_search.results.page.document import Block, Chart, Pictures, Section, Text
from crnn_search.results.page.pictures import pictures
from crnn_search.results.schema import Report, Score, StepError
from crnn_search.results.scored import WINNER, Scored
from crnn_search.results.words import (
    LENGTH_ONLY,
    amount,
    heading,
    is_sums,
    length_only,
    lengths_vary,
    network,
)

WORST, RANDOM = "worst.png", "random.png"
"""Files with pictures for Markdown."""

AT_THE_TOP = 4
"""Of the random sequences, so many are shown beside the headline."""

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


def head(report: Report, scored: Scored) -> list[Block]:
    """What comes first: the headline, the task in pictures, the baselines."""
    first = pictures(scored.random, scored)[:AT_THE_TOP]
    label = "Test sequences, with the prediction after each image"
    return [
        Text(_headline(report)),
        Pictures(label, first),
        Text(comparison(report)),
    ]


def sections(report: Report, scored: Scored) -> list[Section]:
    """The sections on the test result."""
    found = [
        Section("lengths", plain(heading(report, "Test RMSE by length")), _lengths(report))
        if lengths_vary(report)
        else None,
        Section("predicted", "Predicted against true", _predicted(report, scored)),
        Section("steps", f"Errors by position{' and digit' * is_sums(report)}", _steps(report)),
        Section("worst", "The worst sequences", _worst(report, scored)),
        Section("data", "Data", [Text(_data(report))]) if report["data"] else None,
        Section("winner", "The winning configuration", [Text(_configuration(report))]),
    ]
    return [section for section in found if section]


def _headline(report: Report) -> str:
    test, task = report["test"], report["task"]
    learned, by_length = f"{code(task['target'])} of {code(task['name'])}", ""
    if is_sums(report):
        learned = f"the sum of 1 to {task['longest']} handwritten digits"
    if key := length_only(report):
        seen = "counting the digits" if is_sums(report) else "least squares on the length"
        by_length = f", {seen} {plain(_baseline(report, key))}"
    return (
        f"**The retrained winner predicts {learned} with an RMSE of "
        f"{plain(amount(report, test['rmse']))} (95 % interval "
        f"{interval(test['rmse_interval'])}; {seeds(test)}; {test['sequences']:,} sequences of "
        f"{test['images']:,} test images), where the {network(report)} has "
        f"{plain(_baseline(report, report['baseline_name']))}{by_length} and guessing the mean "
        f"{plain(_baseline(report, 'mean_guess'))}.**"
    )


def _baseline(report: Report, name: str) -> str:
    """The RMSE of a baseline, not yet Markdown."""
    return amount(report, report["baselines"][name]["rmse"])


def _configuration(report: Report) -> str:
    text = yaml.safe_dump(report["best_config"], sort_keys=False, default_flow_style=None)
    return (
        f"Trial {report['best_trial']}, "
        f"{report['best_parameters']:,} parameters, validation RMSE "
        f"{plain(amount(report, report['best_validation_rmse']))}.\n\n```yaml\n{text}```"
    )


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
            "### Test result and baselines",
            table(["", plain(heading(report, "RMSE")), *columns], rows),
            f"Winner and {network(report)} had the same budget: {_budget(report)}. "
            + _improvement(report),
            "The exported model is that of the first seed, chosen before any was scored: RMSE "
            f"{exported}.",
            *_ensemble(report),
            _intervals(report),
        ]
    )


def _named(report: Report) -> dict[str, Score]:
    """The scores of the comparison by their names."""
    baselines = report["baselines"]
    named: dict[str, Score] = {"**retrained winner**": report["test"]}
    if found := report["ensemble"]:
        named[f"ensemble of its {found['networks']} seeds"] = found
    whose = "mnistCRNN's" if report["baseline_name"] == "mnist_crnn_2016" else "the"
    trained = f"{whose} {network(report)}, trained in this run"
    named[trained] = baselines[report["baseline_name"]]
    if found := report["baseline_ensemble"]:
        named[f"ensemble of the {found['networks']} seeds of the {network(report)}"] = found
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
    assert data is not None
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
    groups = report["test"]["groups"]
    if groups is None:
        return (
            "Intervals resample test *images*, not sequences (infinitesimal jackknife), because "
            "sequences share images and a few misread ones decide the score, and add the spread "
            "between seeds; they cover other test images and other seeds, not another search, task "
            "or data set."
        )
    if groups == 1:
        return "Intervals are missing: all test sequences are of one group."
    units = _units(report)
    why = ", not sequences, because those of a group are alike" if units == "groups" else ""
    return (
        f"Intervals resample the {groups:,} test *{units}*{why} (infinitesimal jackknife), and add "
        f"the spread between seeds; they cover other {units} and other seeds, not another search, "
        "task or data set."
    )


def _units(report: Report) -> str:
    """What intervals resample."""
    groups, sequences = report["test"]["groups"], report["test"]["sequences"]
    if groups is None:
        return "images"
    return "sequences" if groups == sequences else "groups"


def _ensemble(report: Report) -> list[str]:
    """What the mean of the seeds' predictions gives, and costs."""
    found = report["ensemble"]
    if found is None:
        return []
    count, difference = found["networks"], found["improvement"]
    exact = f", exact sums {percent(found['exact_sum_rate'])}" if is_sums(report) else ""
    time = found["ms_per_sequence"]
    cost = "" if time is None else f" ({count} × {number(time / count)} ms)"
    return [
        f"An ensemble, the mean of the predictions of the winner's {count} seeds, has an RMSE of "
        f"{plain(amount(report, found['rmse']))} (95 % interval "
        f"{interval(found['rmse_interval'])}), MAE {plain(amount(report, found['mae']))}{exact}: "
        "an RMSE lower than the single networks' mean by "
        f"{plain(amount(report, difference['difference']))} (95 % interval, paired, "
        f"{interval(difference['interval'])}), for {count} times the time to predict a "
        f"sequence{cost}. Intervals of ensembles are for other {_units(report)} and these very "
        "networks."
    ]


def _lengths(report: Report) -> list[Block]:
    """RMSE, MAE and exact sums by length, beyond those of training too."""
    test, baselines, sums = report["test"], report["baselines"], is_sums(report)
    others = {network(report): report["baseline_name"]}
    if key := length_only(report):
        others[LENGTH_ONLY[key]] = key
    longer = report["longer"] or {}
    names = {"retrained winner": WINNER, **others}
    compared = {label: baselines[name] for label, name in others.items()}
    series, ensemble = {"retrained winner": test, **compared}, report["ensemble"]
    listed = {"retrained winner": test, **({"ensemble": ensemble} if ensemble else {}), **compared}
    beyond = {label: longer.get(name) for label, name in names.items()}
    steps = "digits" if sums else "images"
    figure = charts.by_length(series, beyond, steps, heading(report, "test RMSE"))
    binned = any("–" in length for length in test["rmse_by_length"])
    note = "Bins of lengths hold about equally many test sequences.\n\n" if binned else ""
    parts = [note + _length_table(report, listed)]
    if report["longer"]:
        count = sum(longer[WINNER]["sequences_by_length"].values())
        parts.append(
            f"Longer than any sequence of training: {count:,} further sequences of the same test "
            "images. No choice depends on them.\n\n" + _length_table(report, _known(beyond))
        )
    elif not sums:
        parts.append("Other lengths are not tried: the data set has no other test sequences.")
    return [Chart("lengths", "Test RMSE by length", figure), *map(Text, parts)]


def _known(scores: Mapping[str, Score | None]) -> dict[str, Score]:
    return {name: score for name, score in scores.items() if score is not None}


def _length_table(report: Report, series: Mapping[str, Score]) -> str:
    """The figures of the first of some scores by length, and the RMSE of the others."""
    sums = is_sums(report)
    first, *others = series.values()
    rows = [
        [
            length,
            f"{first['sequences_by_length'][length]:,}",
            number(rmse),
            interval(first["rmse_interval_by_length"][length]),
            number(first["mae_by_length"][length]),
            *([percent(first["exact_sum_rate_by_length"][length])] if sums else []),
            *(number(score["rmse_by_length"][length]) for score in others),
        ]
        for length, rmse in first["rmse_by_length"].items()
    ]
    header = ["digits" if sums else "images", "sequences", "winner", "95 % interval", "MAE"]
    header += ["exact sums"] if sums else []
    return table([*header, *list(series)[1:]], rows)


def _predicted(report: Report, scored: Scored) -> list[Block]:
    """Predicted against true."""
    test = report["test"]
    targets = scored.table.targets.double().numpy()
    figure = charts.predicted(
        targets,
        scored.predictions[WINNER][0].double().numpy(),
        heading(report, report["task"]["target"]),
    )
    return [
        Chart("predicted", "Predicted against true, test sequences", figure),
        Text(
            "The exported model on every test sequence. Over all seeds, the mean absolute error is "
            f"{plain(amount(report, test['mae']))} and R² is {r2(test['r2'])}: 1 less the mean "
            "squared error over the variance of the test targets."
        ),
    ]


def _steps(report: Report) -> list[Block]:
    """Which position and which digit errors come from."""
    found = report["steps"]
    if found is None:
        return [
            Text(
                "Left out: a target is of a whole sequence, and what each image adds to it is not "
                "known."
            )
        ]
    by_position, by_digit = found["by_position"], found["by_digit"]
    return [
        Text(
            "A *step* is the exported model's prediction after an image less that before it (less "
            "0 before the first); its error is the step less the image's digit. A network that "
            "corrects itself later has an error at both positions."
        ),
        Chart("positions", "Errors by position", charts.steps(by_position, "position"), wide=False),
        Chart("digits", "Errors by digit", charts.steps(by_digit, "digit"), wide=False),
        Text(_step_table("position", by_position)),
        Text(_step_table("digit", by_digit)),
    ]


def _step_table(kind: str, errors: Mapping[str, StepError]) -> str:
    rows = [
        [name, f"{error['steps']:,}", number(error["rmse"]), number(error["mean"])]
        for name, error in errors.items()
    ]
    return table([kind, "steps", "RMSE of the step", "mean error"], rows)


def _worst(report: Report, scored: Scored) -> list[Block]:
    """The worst sequences and random ones, in pictures."""
    worst, random = pictures(scored.worst, scored), pictures(scored.random, scored)
    return [
        Text(
            f"The {len(worst)} test sequences with the largest error of the exported model, and "
            f"{len(random)} random ones: below each image is the prediction after it."
        ),
        Text("### Worst"),
        Pictures("The worst sequences", worst, WORST),
        Text("### Random"),
        Pictures("Random sequences", random, RANDOM),
    ]


def _data(report: Report) -> str:
    """What is in a data set of the user's own: facts, the target's distribution, long sequences."""
    found = report["data"]
    assert found is not None
    facts = [[plain(name), plain(value)] for name, value in found["facts"]]
    rows = [
        [split, f"{values['sequences']:,}", *(number(values[name]) for name in _TARGETS)]
        for split, values in found["targets"].items()
    ]
    header = [plain(heading(report, report["task"]["target"])), "sequences", *_TARGETS.values()]
    return "\n\n".join(
        [
            f"{code(report['task']['name'])}:",
            table(["", "found"], facts, align="---"),
            table(header, rows),
            _longer(report),
        ]
    )


def _longer(report: Report) -> str:
    """What became of sequences that are longer than the winner's `max_sequence_length`."""
    limit, found = report["best_config"]["max_sequence_length"], report["data"]
    assert found is not None
    longer = f"{found['longer_sequences']:,} sequences of training and validation have more images"
    if not found["longer_sequences"]:
        longer = "No sequence of training and validation has more images"
    rule = found["longer"]
    outcome = f"; the winner {_LONGER[rule]}" if found["longer_sequences"] else ""
    return (
        f"{longer} than the winner's `max_sequence_length`, {limit:,}{outcome} (`longer: {rule}`). "
        "Validation in the search, and the test, are of whole sequences."
    )
