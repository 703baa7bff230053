"""TPE with a bounded memory."""

from __future__ import annotations

import heapq
import math
import warnings
from collections.abc import Container
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState


class RememberingSampler(optuna.samplers.TPESampler):
    """`TPESampler` whose suggestions do not take longer with every trial.

    Its densities have a kernel for each trial it has seen, so that in Optuna 5 the two-thousandth
    suggestion takes 0.2 s. Beyond `MEMORY` ended trials it sees the best `BEST` of them, twice as
    many as its good density is ever made of, and the newest of the others (docs/decisions/0008).
    """

    MEMORY, BEST = 300, 50

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """As `TPESampler`."""
        self._seen = _Seen(study, self._remembered(study))
        return super().infer_relative_search_space(self._seen, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As `TPESampler`."""
        return super().sample_relative(self._seen, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Any:
        """As `TPESampler`."""
        return super().sample_independent(self._seen, trial, name, distribution)

    def _remembered(self, study: optuna.Study) -> list[FrozenTrial]:
        trials = study.get_trials(deepcopy=False)
        ended = [t for t in trials if t.state in {TrialState.COMPLETE, TrialState.PRUNED}]
        if len(ended) <= self.MEMORY:
            return trials
        best = heapq.nsmallest(self.BEST, ended, key=_merit)
        kept = {t.number for t in (*best, *ended[self.BEST - self.MEMORY :])}
        kept |= {t.number for t in trials if t.state == TrialState.RUNNING}
        return [t for t in trials if t.number in kept]


class _Seen(optuna.Study):
    """A study of which a sampler sees some trials only."""

    def __init__(self, study: optuna.Study, trials: list[FrozenTrial]) -> None:
        self.__dict__.update(study.__dict__)
        self._shown = trials

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        return [t for t in self._shown if states is None or t.state in states]


def _merit(trial: FrozenTrial) -> tuple[bool, int, float]:
    """What TPE sorts by: full-budget trials by value, then the others, the longest-lived first."""
    step = trial.last_step or 0
    value = math.inf if trial.value is None else trial.value
    complete = trial.state == TrialState.COMPLETE
    return not complete, 0 if complete else -step, value


def _sampler(seed: int, *, random: bool = False) -> optuna.samplers.BaseSampler:
    """Multivariate TPE over groups of parameters that occur together (Falkner et al. 2018)."""
    if random:
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        # Both are marked experimental; they are what conditional spaces need.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return RememberingSampler(multivariate=True, group=True, constant_liar=True, seed=seed)
