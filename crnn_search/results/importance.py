"""How much each hyperparameter matters."""

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
from crnn_search.storage.trial import TrialRecord, TrialState

IMPORTANCE_TRIALS = 8
"""The fewest full-budget trials that importance is computed from."""


def importances(trials: Sequence[TrialRecord]) -> tuple[dict[str, float] | None, str]:
    """Each varied hyperparameter's share of importance, the highest first, and a note on it.

    None where there are too few trials. By PED-ANOVA (Watanabe et al., IJCAI 2023): how much the
    distribution of the best trials' values differs from that of all trials. Only trials that ran to
    their full budget count; RMSEs of different fidelities cannot be compared.
    """
    full = [t for t in trials if t.state == TrialState.COMPLETE and t.last_rmse is not None]
    configs = [t.trial.config.to_dict() for t in full]
    varied = {name: [_scalar(config[name]) for config in configs] for name in PARAMETERS}
    varied = {name: values for name, values in varied.items() if len(set(values)) > 1}
    if len(full) < IMPORTANCE_TRIALS or len(varied) < 2:
        return None, (
            f"it needs at least {IMPORTANCE_TRIALS} trials that ran to their full budget and two "
            f"hyperparameters that vary among them, got {len(full)} and {len(varied)}"
        )
    # At least five trials among the best, as Optuna's manual asks, but never more than half.
    quantile = min(0.5, max(0.1, 5 / len(full)))
    shares = _ped_anova(varied, [t.final_rmse for t in full], quantile)
    return shares, (
        f"PED-ANOVA on the {len(full)} trials that ran to their full budget: how much the best "
        f"{quantile:.0%} of them differ from all of them. They are few, and early stopping chose "
        "them: a hint, not a proof"
    )


def _scalar(value: Any) -> Any:
    """A list as text, since Optuna's categories must be scalars."""
    return json.dumps(value) if isinstance(value, list) else value


def _ped_anova(
    columns: Mapping[str, list[Any]], rmse: Sequence[float], quantile: float
) -> dict[str, float]:
    """Importance of each column's values for an RMSE among the lowest share `quantile`."""
    ranges = {name: _distribution(name, values) for name, values in columns.items()}
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # creating a study logs a line
    study = optuna.create_study()
    optuna.logging.set_verbosity(before)
    for row, value in enumerate(rmse):
        params = {name: values[row] for name, values in columns.items()}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=ranges, value=value))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=quantile)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _distribution(name: str, values: list[Any]) -> BaseDistribution:
    """The range of some values, logarithmic if it spans a factor of ten."""
    kind = PARAMETERS[name].kind
    if kind not in {"int", "float"}:
        return CategoricalDistribution(sorted(set(values)))
    low, high = min(values), max(values)
    log = low > 0 and high >= 10 * low
    if kind == "int":
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)
