"""A run's result files become `report.json`, and that becomes Markdown, HTML and plots.

`write_report` is the only place that opens the test images, after every choice has been made.
`assemble` makes all numbers; `render` and `summary` only put `report.json`'s content into words.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml
from torch import Tensor

from crnn_search import checkpoint, engine, evaluate, ledger
from crnn_search.config import MNIST_CRNN_2016, PARAMETERS, TrialConfig
from crnn_search.data import TRAINING_IMAGES, Digits, SequenceTable, testing_table
from crnn_search.errors import RunError
from crnn_search.evaluate import Score
from crnn_search.footprint import parameter_count
from crnn_search.ledger import Record
from crnn_search.model import CRNN
from crnn_search.paths import RunPaths, read_json, write_atomically, write_json

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Report = dict[str, Any]

PUBLISHED = (
    {"name": "mnistCRNN README, 2016", "rmse": 1.17},
    {"name": "mnistCRNN README, 2018 (ImageNet MobileNet)", "rmse": 0.65},
)
"""What github.com/jamesmf/mnistCRNN states for sums of 1 to 8 digits, on sequences of its own."""

IMPORTANCE_TRIALS = 8
"""Fewer full-budget trials than this say nothing about importance."""

SHOWN_FAILURES = 10
"""So many reasons of failures are written out; the other failures are counted."""

LEARNING_CURVES = "learning_curves.png"
RMSE_BY_LENGTH = "rmse_by_length.png"


def write_report(run: RunPaths, digits_with_test: Digits) -> Report:
    """Score the retrained networks on the test images and write every file of the report.

    Can be run again alone, and then gives the same `report.json`, whose content it returns.

    digits_with_test: MNIST's 60,000 training images followed by its test images.

    Raises:
        InputError: a result file is missing or no JSON.
        ModelFileError: a retrained network's file is missing or altered.
        RunError: the retrained networks are not those of `best.json`, or one of them diverged.
    """
    trials = ledger.last_of_each(ledger.read_ledger(run.ledger))
    report = assemble(run, trials, digits_with_test)
    write_json(run.report_json, report)
    _draw(run, trials, report)
    markdown = render(report)
    write_atomically(run.report_markdown, markdown)
    write_atomically(run.report_html, _html(markdown, run))
    return report


# --- numbers ---


def assemble(run: RunPaths, trials: Sequence[Record], digits: Digits) -> Report:
    """All that the report states, ready for JSON. Raises as `write_report` does."""
    manifest, best, retrained = map(read_json, (run.manifest, run.best, run.retrained))
    space = manifest["space"]
    config = TrialConfig.from_dict(best["config"])
    winner = _load(run, retrained["winner"], config)
    if not winner:
        raise RunError(f"{run.retrained} must list at least one retrained winner, got none")
    other = _load(run, retrained["mnist_crnn_2016"], MNIST_CRNN_2016)
    finalists = read_json(run.finalists)["finalists"] if run.finalists.is_file() else None
    importance, note = importances(trials)
    return {
        "run": {key: value for key, value in manifest.items() if key != "space"},
        "space": space,
        **_test_results(winner, other, digits, space["task"]["max_digits"]),
        "best_trial": best["number"],
        "best_validation_rmse": best["rmse"],
        "best_config": config.to_dict(),
        "best_parameters": parameter_count(config.model),
        "finalists": finalists,
        "trials": ledger.outcomes(trials),
        "compute": _compute(trials, finalists, retrained, space["search"]["max_epochs"]),
        "importance": importance,
        "importance_note": note,
        "retrained": {key: retrained[key] for key in ("epochs", "epoch_sequences")},
        "seconds": retrained.get("seconds"),
    }


def importances(trials: Sequence[Record]) -> tuple[dict[str, float] | None, str]:
    """Each varied hyperparameter's share of importance, the highest first, and what it means.

    None where there are too few trials to tell. By PED-ANOVA (Watanabe et al., IJCAI 2023): how
    differently the best trials' values are distributed from all trials'. Only trials that ran to
    their full budget count; values of different fidelities cannot be compared.
    """
    full = [t for t in trials if t["state"] == "COMPLETE" and t["values"][-1] is not None]
    varied = {name: [_plain(t["config"][name]) for t in full] for name in PARAMETERS}
    varied = {name: values for name, values in varied.items() if len(set(values)) > 1}
    if len(full) < IMPORTANCE_TRIALS or len(varied) < 2:
        return None, (
            f"it needs at least {IMPORTANCE_TRIALS} trials that ran to their full budget and two "
            f"hyperparameters that vary among them, got {len(full)} and {len(varied)}"
        )
    # At least five trials among the best, as Optuna's manual asks, but never more than half.
    quantile = min(0.5, max(0.1, 5 / len(full)))
    shares = _ped_anova(varied, [t["values"][-1] for t in full], quantile)
    return shares, (
        f"PED-ANOVA on the {len(full)} trials that ran to their full budget: how much the best "
        f"{_percent(quantile)} of them differ from all of them. They are few, and those that early "
        "stopping spared: a hint, not a proof"
    )


def _load(run: RunPaths, entries: Sequence[Mapping[str, Any]], expected: TrialConfig) -> list[CRNN]:
    """The networks of one configuration, in the order of their entries."""
    models = []
    for entry in entries:
        model, config, _ = checkpoint.load_model(run.root / entry["file"])
        if config != expected:
            raise RunError(
                f"{entry['file']} must have the configuration {expected.to_dict()}, got "
                f"{config.to_dict()}; retrain it"
            )
        models.append(model)
    return models


def _test_results(
    winner: Sequence[CRNN], other: Sequence[CRNN], digits: Digits, max_digits: int
) -> Report:
    """Scores of the winner, the network of 2016 (may be missing) and the two blind baselines."""
    labels = digits.labels.cpu()
    table = testing_table(labels, max_digits)
    ours, theirs = _predict(winner, digits, table), _predict(other, digits, table)
    score = evaluate.score(ours, table)
    blind = evaluate.baselines(labels[:TRAINING_IMAGES], table, max_digits)
    return {
        "test": {
            **score.to_dict(),
            "exported_rmse": score.rmse_by_seed[0],
            "images": len(labels) - TRAINING_IMAGES,
        },
        "baselines": {
            **_prefixed("mean_guess", blind.mean_guess),
            **_prefixed("count_only", blind.count_only),
            **_prefixed("mnist_crnn_2016", evaluate.score(theirs, table) if theirs else None),
            "published": list(PUBLISHED),
        },
        "improvement": (
            evaluate.paired_difference(theirs, ours, table).to_dict() if theirs else None
        ),
    }


def _predict(models: Sequence[CRNN], digits: Digits, table: SequenceTable) -> list[Tensor]:
    device = digits.images.device
    return [engine.predict(model.to(device), digits, table) for model in models]


def _prefixed(name: str, score: Score | None) -> Report:
    """A score's figures under `name_...`, all None if there is no score."""
    figures = score.to_dict() if score else {f.name: None for f in dataclasses.fields(Score)}
    return {f"{name}_{key}": value for key, value in figures.items()}


def _compute(
    trials: Sequence[Record],
    finalists: Sequence[Mapping[str, Any]] | None,
    retrained: Mapping[str, Any],
    max_epochs: int,
) -> Report:
    """Core and GPU seconds by what they were spent on; None where no file says."""
    # By file, since a winner that is the network of 2016 stands twice but was trained once.
    networks = {e["file"]: e for e in (*retrained["winner"], *retrained["mnist_crnn_2016"])}
    spent = {
        key: {
            **ledger.spent(trials, key),
            "finalists": None if finalists is None else sum(row[key] for row in finalists),
            "retrain": sum(entry[key] for entry in networks.values()),
        }
        for key in ("core_seconds", "gpu_seconds")
    }
    return {**spent, "asha_saved_share": ledger.saved_share(trials, max_epochs)}


def _plain(value: Any) -> Any:
    """A list as text, since Optuna's categories must be single values."""
    return json.dumps(value) if isinstance(value, list) else value


def _ped_anova(
    columns: Mapping[str, list[Any]], rmse: Sequence[float], quantile: float
) -> dict[str, float]:
    """Importance of each column's values for an RMSE among the lowest share `quantile`."""
    import optuna

    ranges = {name: _distribution(name, values) for name, values in columns.items()}
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # a new study announces itself
    study = optuna.create_study()
    optuna.logging.set_verbosity(before)
    for place, value in enumerate(rmse):
        params = {name: values[place] for name, values in columns.items()}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=ranges, value=value))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=quantile)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _distribution(name: str, values: list[Any]) -> BaseDistribution:
    """The range of the values seen, logarithmic if it spans a factor of ten."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    kind = PARAMETERS[name].kind
    if kind not in {"int", "float"}:
        return CategoricalDistribution(sorted(set(values)))
    low, high = min(values), max(values)
    log = low > 0 and high >= 10 * low
    if kind == "int":
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


# --- words ---


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
        "mnistCRNN's network of 2016, trained in this run": _unprefixed("mnist_crnn_2016", base),
        "count only: the mean digit × length": _unprefixed("count_only", base),
        "guess the mean sum": _unprefixed("mean_guess", base),
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
    other = _unprefixed("mnist_crnn_2016", report["baselines"])
    blind = _unprefixed("count_only", report["baselines"])
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
            _number(item["rmse"]) if item["rmse_by_seed"] else "not repeated",
            _deviation(item["rmse_by_seed"]),
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


def _search(report: Report) -> str:
    trials, search = report["trials"], report["space"]["search"]
    total = trials["completed"] + trials["stopped"] + trials["failed"]
    return "\n\n".join(
        [
            "## Search",
            f"{total} trials of at most {search['max_epochs']} epochs of "
            f"{search['epoch_sequences']:,} sequences: {trials['completed']} completed, "
            f"{trials['stopped']} stopped early, {trials['failed']} failed. Early stopping left "
            f"out {_percent(report['compute']['asha_saved_share'])} of the epochs that the "
            "completed and stopped ones would have taken at their full budget.",
            _failures(trials["failures"]),
            _spent(report),
            f"![Validation RMSE by epoch of every trial](plots/{LEARNING_CURVES})",
        ]
    )


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


def _unprefixed(name: str, figures: Mapping[str, Any]) -> Report:
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


# --- pictures and HTML ---


def _draw(run: RunPaths, trials: Sequence[Record], report: Report) -> None:
    from crnn_search import plots

    base = report["baselines"]
    plots.learning_curves(
        run.plots / LEARNING_CURVES,
        trials,
        winner=report["best_trial"],
        epochs=report["space"]["search"]["max_epochs"],
        ceiling=2 * base["mean_guess_rmse"],
    )
    series = {
        "retrained winner": report["test"],
        "network of 2016": _unprefixed("mnist_crnn_2016", base),
        "count only": _unprefixed("count_only", base),
    }
    known = {name: score for name, score in series.items() if score["rmse"] is not None}
    plots.rmse_by_length(run.plots / RMSE_BY_LENGTH, known)


STYLE = """
:root { color-scheme: light dark; --line: #ccc; --soft: #f3f3f3; }
@media (prefers-color-scheme: dark) { :root { --line: #444; --soft: #222; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 54rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .8rem .3rem 0; }
pre { background: var(--soft); padding: .8rem; overflow-x: auto; }
code { font-family: ui-monospace, monospace; font-size: .9em; overflow-wrap: anywhere; }
img { max-width: 100%; background: white; border-radius: 4px; }
"""


def _html(markdown: str, run: RunPaths) -> str:
    """One file that needs no other: the Markdown as HTML, its pictures inside."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("js-default").render(markdown)
    for name in (LEARNING_CURVES, RMSE_BY_LENGTH):
        data = base64.b64encode((run.plots / name).read_bytes()).decode()
        body = body.replace(f'src="plots/{name}"', f'src="data:image/png;base64,{data}"')
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>crnn-search report: {html.escape(run.name)}</title>\n"
        f"<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
