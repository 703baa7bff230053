"""TPE whose cost per suggestion is bounded."""

from __future__ import annotations

import heapq
import math
import warnings

import optuna
from optuna.trial import FrozenTrial, TrialState

MAX_TRIALS, BEST = 300, 50
"""How many ended trials a sampler sees at most, and how many of them are the best."""


def make_sampler(seed: int, *, random: bool = False) -> optuna.samplers.BaseSampler:
    """Multivariate TPE over groups of parameters that occur together (Falkner et al. 2018).

    random: a sampler that draws at random instead.
    """
    if random:
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        # Both are marked experimental; they are what conditional spaces need.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            multivariate=True, group=True, constant_liar=True, seed=seed
        )


def bounded(study: optuna.Study) -> optuna.Study:
    """The study to ask for a suggestion: this one, or a smaller one of some of its trials.

    TPE's densities have a kernel for each trial of the study, so that in Optuna 5 the
    two-thousandth suggestion takes 0.2 s. Beyond `MAX_TRIALS` ended trials the smaller study has
    the best `BEST` of them, twice as many as TPE's density of good trials ever has, the newest of
    the others, and all that are running (docs/decisions/0008).
    """
    trials = study.get_trials(deepcopy=False)
    ended = [t for t in trials if t.state in {TrialState.COMPLETE, TrialState.PRUNED}]
    if len(ended) <= MAX_TRIALS:
        return study
    best = heapq.nsmallest(BEST, ended, key=_rank)
    used = {t.number for t in (*best, *ended[BEST - MAX_TRIALS :])}
    used |= {t.number for t in trials if t.state == TrialState.RUNNING}
    smaller = _new_study()
    smaller.add_trials(t for t in trials if t.number in used)
    return smaller


def _new_study() -> optuna.Study:
    """A study in memory. Without Optuna's line in the log: one is created for each suggestion."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study()
    finally:
        optuna.logging.set_verbosity(before)


def _rank(trial: FrozenTrial) -> tuple[bool, int, float]:
    """How TPE sorts: full-budget trials by value, then the others, the longest-lived first."""
    step = trial.last_step or 0
    value = math.inf if trial.value is None else trial.value
    complete = trial.state == TrialState.COMPLETE
    return not complete, 0 if complete else -step, value
