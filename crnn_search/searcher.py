"""Optuna's side of Ray Tune: what to try next, and what became of it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search.optuna import OptunaSearch

from crnn_search.config import TrialConfig
from crnn_search.data import derive_seed
from crnn_search.errors import ConfigError, RunError
from crnn_search.space import SearchSpace
from crnn_search.trainable import METRIC, Job

MAX_INFEASIBLE_IN_A_ROW = 1000
RANDOM_AFTER_INFEASIBLE = 10

Infeasible = Callable[[int, dict[str, Any], str], None]


class StudySearch(OptunaSearch):  # type: ignore[misc]
    """`OptunaSearch` with true trial states and repeatable suggestions.

    What is wrong in Ray 2.60's `OptunaSearch`, and put right here:

    - `on_trial_complete` tells a trial that the scheduler stopped as `COMPLETE` with its last
      value. TPE and `best_trial` then compare an epoch-1 value with full-budget ones. Here it is
      `PRUNED`, with every intermediate value at its epoch, the last one too.
    - A value that is not a number makes `study.tell` raise, which is only logged; the Optuna trial
      stays `RUNNING` for ever and the constant liar penalises its surroundings. Here it is `FAIL`.
    - Its sampler is a running random generator, so suggestions depend on how many were drawn in
      this process. Here each draw is seeded by (search seed, how many went before): a
      suggestion depends on the study's history alone.

    A suggestion whose network is impossible never reaches Ray: it is told `FAIL`, counted by
    `on_infeasible(number, configuration, reason)`, and the sampler is asked again. TPE learns
    nothing from failures and may want the same impossible corner for ever, so after ten in a row
    the draws are random until one is possible.
    """

    def __init__(self, space: SearchSpace, on_infeasible: Infeasible | None = None) -> None:
        self._search_space = space
        self._on_infeasible = on_infeasible
        self._asked = 0
        super().__init__(
            space=space.suggest,
            metric=METRIC,
            mode="min",
            sampler=_sampler(space.search.seed),
        )
        for config in space.first:
            self._ot_study.enqueue_trial(space.to_params(config))

    @property
    def study(self) -> optuna.Study:
        """The study, in memory."""
        study: optuna.Study = self._ot_study
        return study

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """The next job.

        Raises:
            RunError: a thousand suggestions in a row were impossible networks.
        """
        search = self._search_space.search
        for tried in range(MAX_INFEASIBLE_IN_A_ROW):
            seed = derive_seed("sampler", search.seed, self._asked) % 2**32
            self._ot_study.sampler = _sampler(seed, random=tried >= RANDOM_AFTER_INFEASIBLE)
            self._asked += 1
            trial = self._ot_study.ask()
            config = self._search_space.suggest(trial)
            reason = _infeasibility(config)
            if reason is None:
                self._ot_trials[trial_id] = trial
                return {"job": self._job(trial.number, config).to_dict()}
            self._ot_study.tell(trial, state=TrialState.FAIL)
            if self._on_infeasible is not None:
                self._on_infeasible(trial.number, config, reason)
        raise RunError(
            f"{MAX_INFEASIBLE_IN_A_ROW} sampled networks in a row were impossible, the last "
            f"because {reason}; make the space's kernels, poolings or depth smaller"
        )

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record an epoch's value."""
        value = result.get(METRIC, math.nan)
        if trial_id not in self._completed_trials and math.isfinite(value):
            self._ot_trials[trial_id].report(value, result["epoch"])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna the state that the trial truly ended in."""
        if trial_id in self._completed_trials:
            return
        trial = self._ot_trials.pop(trial_id)
        state = ending_state(result, self._search_space.search.max_epochs, error=error)
        if result and math.isfinite(result.get(METRIC, math.nan)):
            trial.report(result[METRIC], result["epoch"])
        value = result[METRIC] if result and state == TrialState.COMPLETE else None
        self._ot_study.tell(trial, value, state=state)
        self._completed_trials.add(trial_id)

    def _job(self, number: int, config: dict[str, Any]) -> Job:
        space = self._search_space
        return Job(
            name=f"trial-{number:04d}",
            number=number,
            config=TrialConfig.from_dict(config).to_dict(),
            seed=derive_seed("trial", space.search.seed, number) % 2**31,
            epochs=space.search.max_epochs,
            grace_epochs=space.search.grace_epochs,
            epoch_sequences=space.search.epoch_sequences,
            max_digits=space.task.max_digits,
        )


def ending_state(
    result: dict[str, Any] | None, max_epochs: int, *, error: bool = False
) -> TrialState:
    """How a trial ended, from its last result: the one rule for study, ledger and report."""
    if error or not result or "failure" in result or METRIC not in result:
        return TrialState.FAIL
    return TrialState.COMPLETE if result["epoch"] >= max_epochs else TrialState.PRUNED


def _sampler(seed: int, *, random: bool = False) -> optuna.samplers.BaseSampler:
    """Multivariate TPE over groups of parameters that occur together (Falkner et al. 2018)."""
    if random:
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        # Both are marked experimental; they are what conditional spaces need.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            multivariate=True, group=True, constant_liar=True, seed=seed
        )


def _infeasibility(config: dict[str, Any]) -> str | None:
    try:
        TrialConfig.from_dict(config)
    except ConfigError as error:
        return "; ".join(error.problems)
    return None
