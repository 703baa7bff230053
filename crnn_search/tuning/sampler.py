"""TPE whose cost per suggestion is bounded."""

from __future__ import annotations

import heapq
import math
import warnings
from collections.abc import Container
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState


class BoundedSampler(optuna.samplers.TPESampler):
    """`TPESampler` whose suggestions do not take longer with every trial.

    TPE's densities have a kernel for each trial of the study, so that in Optuna 5 the
    two-thousandth suggestion takes 0.2 s. Beyond `MAX_TRIALS` ended trials this sampler uses the
    best `BEST` of them, twice as many as TPE's density of good trials ever has, and the newest of
    the others (docs/decisions/0008).
    """

    MAX_TRIALS, BEST = 300, 50

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Choose the trials for this suggestion; then as in `TPESampler`."""
        self._visible = _Subset(study, self._used(study))
        return super().infer_relative_search_space(self._visible, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Suggest parameters that occur together, from the chosen trials."""
        return super().sample_relative(self._visible, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Any:
        """Suggest a parameter on its own, from the chosen trials."""
        return super().sample_independent(self._visible, trial, name, distribution)

    def _used(self, study: optuna.Study) -> list[FrozenTrial]:
        trials = study.get_trials(deepcopy=False)
        ended = [t for t in trials if t.state in {TrialState.COMPLETE, TrialState.PRUNED}]
        if len(ended) <= self.MAX_TRIALS:
            return trials
        best = heapq.nsmallest(self.BEST, ended, key=_rank)
        used = {t.number for t in (*best, *ended[self.BEST - self.MAX_TRIALS :])}
        used |= {t.number for t in trials if t.state == TrialState.RUNNING}
        return [t for t in trials if t.number in used]


class _Subset(optuna.Study):
    """A study of which a sampler sees some trials only."""

    def __init__(self, study: optuna.Study, trials: list[FrozenTrial]) -> None:
        self.__dict__.update(study.__dict__)
        self._subset = trials

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        return [t for t in self._subset if states is None or t.state in states]


def _rank(trial: FrozenTrial) -> tuple[bool, int, float]:
    """How TPE sorts: full-budget trials by value, then the others, the longest-lived first."""
    step = trial.last_step or 0
    value = math.inf if trial.value is None else trial.value
    complete = trial.state == TrialState.COMPLETE
    return not complete, 0 if complete else -step, value


def make_sampler(seed: int, *, random: bool = False) -> optuna.samplers.BaseSampler:
    """Multivariate TPE over groups of parameters that occur together (Falkner et al. 2018).

    random: a sampler that draws at random instead.
    """
    if random:
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        # Both are marked experimental; they are what conditional spaces need.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return BoundedSampler(multivariate=True, group=True, constant_liar=True, seed=seed)
