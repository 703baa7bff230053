"""How much each hyperparameter matters: as Optuna's dashboard shows it, with its uncertainty."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from crnn_search.results.schema import Importance
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage.trial import TrialRecord, TrialState

IMPORTANCE_TRIALS = 8
"""The fewest full-budget trials that importance is computed from."""

RESAMPLES = 50
"""How often the trials are drawn again, with replacement, for the interval."""


def importances(
    trials: Sequence[TrialRecord], space: SearchSpace
) -> tuple[list[Importance] | None, str]:
    """Each searched parameter's share of importance, the highest first, and a note on it.

    None where there are too few trials. By PED-ANOVA (Watanabe et al., IJCAI 2023) with Optuna's
    settings, as its dashboard computes it: how much the distribution of the best tenth of the
    trials differs from that of all. Only trials that ran to their full budget count; RMSEs of
    different fidelities cannot be compared. Intervals are from a bootstrap of the trials.
    """
    ended = [t for t in trials if t.state in {TrialState.COMPLETE, TrialState.PRUNED}]
    known = [_frozen(record, space) for record in ended if record.last_rmse is not None]
    full = [trial for trial in known if trial.state == optuna.trial.TrialState.COMPLETE]
    names = set().union(*(trial.params for trial in full))
    varied = {name for name in names if len({str(t.params.get(name)) for t in full}) > 1}
    if len(full) < IMPORTANCE_TRIALS or len(varied) < 2:
        return None, (
            f"it needs at least {IMPORTANCE_TRIALS} trials that ran to their full budget and two "
            f"hyperparameters that vary among them, got {len(full)} and {len(varied)}"
        )
    shares = _ped_anova(known)
    rng = np.random.default_rng(0)
    again = [
        _ped_anova([full[place] for place in rng.integers(len(full), size=len(full))])
        for _ in range(RESAMPLES)
    ]
    rows = [
        Importance(name=name, share=share, interval=_interval([a.get(name, 0.0) for a in again]))
        for name, share in shares.items()
    ]
    return rows, (
        f"PED-ANOVA on the {len(full)} trials that ran to their full budget, as Optuna's dashboard "
        "computes it: how much the best tenth of them differ from all of them. Intervals: where "
        f"90 % of {RESAMPLES} bootstrap samples of the trials are. Early stopping chose these "
        "trials: a hint, not a proof"
    )


def _frozen(record: TrialRecord, space: SearchSpace) -> FrozenTrial:
    """An ended trial as the study has it."""
    config = record.trial.config.to_dict()
    searched = {name: value for name, value in config.items() if name in space.space}
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState[record.state.name],
        value=record.last_rmse,
        params=space.to_params(searched),
        distributions=space.distributions(searched),
    )


def _ped_anova(trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """The importance of each parameter of some trials, the highest first."""
    with _quiet():
        study = optuna.create_study()
        study.add_trials(trials)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _interval(shares: Sequence[float]) -> list[float]:
    low, high = np.quantile(shares, (0.05, 0.95)).tolist()
    return [low, high]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A block in which Optuna logs nothing: creating a study logs a line."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
