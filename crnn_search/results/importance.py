"""How much each hyperparameter mattered."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from crnn_search.hyperparameters import PARAMETERS
from crnn_search.storage.jsonl import Record

IMPORTANCE_TRIALS = 8
"""Fewer full-budget trials than this say nothing about importance."""


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


def _plain(value: Any) -> Any:
    """A list as text, since Optuna's categories must be single values."""
    return json.dumps(value) if isinstance(value, list) else value


def _ped_anova(
    columns: Mapping[str, list[Any]], rmse: Sequence[float], quantile: float
) -> dict[str, float]:
    """Importance of each column's values for an RMSE among the lowest share `quantile`."""

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

    kind = PARAMETERS[name].kind
    if kind not in {"int", "float"}:
        return CategoricalDistribution(sorted(set(values)))
    low, high = min(values), max(values)
    log = low > 0 and high >= 10 * low
    if kind == "int":
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)
