"""A run's result files become `report.json`, and that becomes Markdown, HTML and plots.

`write_report` is the only place that opens the test images, after every choice has been made.
`assemble` makes all numbers; `render` and `summary` only put `report.json`'s content into words.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from crnn_search.data.sequences import TRAINING_IMAGES, Digits, SequenceTable, testing_table
from crnn_search.errors import RunError
from crnn_search.hyperparameters import MNIST_CRNN_2016, PARAMETERS, TrialConfig
from crnn_search.results import scores
from crnn_search.results.markdown import LEARNING_CURVES, RMSE_BY_LENGTH, Report, render, unprefixed
from crnn_search.results.scores import Score
from crnn_search.storage import jsonl, ledger
from crnn_search.storage.jsonl import Record
from crnn_search.storage.run_folder import RunPaths, read_json, write_atomically, write_json
from crnn_search.training import checkpoint, engine
from crnn_search.training.footprint import parameter_count
from crnn_search.training.model import CRNN

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

PUBLISHED = (
    {"name": "mnistCRNN README, 2016", "rmse": 1.17},
    {"name": "mnistCRNN README, 2018 (ImageNet MobileNet)", "rmse": 0.65},
)
"""What github.com/jamesmf/mnistCRNN states for sums of 1 to 8 digits, on sequences of its own."""

IMPORTANCE_TRIALS = 8
"""Fewer full-budget trials than this say nothing about importance."""


def write_report(run: RunPaths, digits_with_test: Digits) -> Report:
    """Score the retrained networks on the test images and write every file of the report.

    Can be run again alone, and then gives the same `report.json`, whose content it returns.

    digits_with_test: MNIST's 60,000 training images followed by its test images.

    Raises:
        InputError: a result file is missing or no JSON.
        ModelFileError: a retrained network's file is missing or altered.
        RunError: the retrained networks are not those of `best.json`, or one of them diverged.
    """
    trials = sorted(jsonl.read(run.ledger), key=lambda record: record["number"])
    report = assemble(run, trials, digits_with_test)
    write_json(run.report_json, report)
    _draw(run, trials, report)
    markdown = render(report)
    write_atomically(run.report_markdown, markdown)
    write_atomically(run.report_html, _html(markdown, run))
    return report


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
        f"{quantile:.0%} of them differ from all of them. They are few, and those that early "
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
    score = scores.score(ours, table)
    blind = scores.baselines(labels[:TRAINING_IMAGES], table, max_digits)
    return {
        "test": {
            **score.to_dict(),
            "exported_rmse": score.rmse_by_seed[0],
            "images": len(labels) - TRAINING_IMAGES,
        },
        "baselines": {
            **_prefixed("mean_guess", blind.mean_guess),
            **_prefixed("count_only", blind.count_only),
            **_prefixed("mnist_crnn_2016", scores.score(theirs, table) if theirs else None),
            "published": list(PUBLISHED),
        },
        "improvement": (
            scores.paired_difference(theirs, ours, table).to_dict() if theirs else None
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


def _draw(run: RunPaths, trials: Sequence[Record], report: Report) -> None:
    from crnn_search.results import plots

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
        "network of 2016": unprefixed("mnist_crnn_2016", base),
        "count only": unprefixed("count_only", base),
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
