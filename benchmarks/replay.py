"""Searches replayed on recorded learning curves, with a simulated clock.

What a searcher and a scheduler do is real; what training gives comes from `benchmarks.landscape`. A
free worker starts or continues a trial at once. `RealSearch` drives Ray Tune's classes: this
project's, or the stock ones. `Search` puts a sampler of Optuna's together with any rule of who goes
on, pausing included, and knows each trial's true state.
"""

from __future__ import annotations

import copy
import heapq
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol
from unittest import mock

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from benchmarks.landscape import Outcome, recorded
from benchmarks.record_curves import EPOCHS
from benchmarks.untrained import epoch_result
from crnn_search.data.sequences import derive_seed
from crnn_search.errors import ConfigError
from crnn_search.hyperparameters import MNIST_SHAPE, PARAMETERS, TrialConfig
from crnn_search.spaces.space import SearchSpace
from crnn_search.tuning.searcher import RANDOM_AFTER_INFEASIBLE


@dataclass
class Trial:
    """A trial of a replayed search. `values` are its readings, one an epoch; see `Search`."""

    number: int
    outcome: Outcome
    values: list[float] = field(default_factory=list)
    params: dict[str, Any] = field(default_factory=dict)
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    running: bool = True

    @property
    def epoch(self) -> int:
        """Epochs trained."""
        return len(self.values)


class Step(NamedTuple):
    """An epoch that ended: simulated time, its core seconds, trial, epoch, reading, `truth`."""

    now: float
    seconds: float
    number: int
    epoch: int
    validation_rmse: float
    truth: float


class Searches(Protocol):
    """What chooses."""

    def next(self) -> Trial | None:
        """The trial that a free worker trains for an epoch; None: nothing while others run."""

    def ended(self, trial: Trial) -> bool:
        """Whether a trial, an epoch later, goes on at once."""


def replay(search: Searches, workers: int) -> Iterator[Step]:
    """Every epoch of a search, until nothing is left to do."""
    training: list[tuple[float, int, Trial]] = []
    now = 0.0
    while True:
        while len(training) < workers and (trial := search.next()):
            heapq.heappush(training, (now + trial.outcome.epoch_s, trial.number, trial))
        if not training:
            return
        now, number, trial = heapq.heappop(training)
        seconds, truth = trial.outcome.epoch_s, trial.outcome.truth
        if search.ended(trial):
            heapq.heappush(training, (now + seconds, number, trial))
        yield Step(now, seconds, number, trial.epoch, trial.values[-1], truth)


class RealSearch:
    """A searcher and a scheduler of Ray Tune's, and what happens to their trials."""

    def __init__(self, searcher: Any, scheduler: Any, trials: int, seed: int) -> None:
        """trials: infeasible ones do not count. seed: of the noise of trainings."""
        self._searcher, self._scheduler = searcher, scheduler
        self._trials, self._seed = trials, seed
        self._started = self._infeasible = 0
        self._tunes: dict[int, SimpleNamespace] = {}

    def next(self) -> Trial | None:
        while self._started < self._trials:
            tune_id = f"{self._started}-{self._infeasible}"
            suggested = self._searcher.suggest(tune_id)
            ours = suggested.get("trial")
            config = ours["config"] if ours else suggested
            # Stock adds Optuna's own names, and of a choice of lists has the text.
            searched = {name: config[name] for name in PARAMETERS if name in config}
            if not ours and not _is_feasible(searched):
                self._infeasible += 1
                self._searcher.on_trial_complete(tune_id, error=True)
                continue
            name = ours["name"] if ours else tune_id
            tune = SimpleNamespace(trial_id=tune_id, config={"trial": {"name": name}})
            trial = Trial(self._started, train(searched, self._seed, self._started))
            self._tunes[trial.number] = tune
            self._started += 1
            self._scheduler.on_trial_add(None, tune)
            return trial
        return None

    def ended(self, trial: Trial) -> bool:
        tune = self._tunes[trial.number]
        trial.values.append(float(trial.outcome.curve[trial.epoch]))
        result = epoch_result(trial.epoch, trial.values[-1]).to_dict()
        result["training_iteration"] = trial.epoch
        if self._scheduler.on_trial_result(None, tune, result) == "CONTINUE":
            self._searcher.on_trial_result(tune.trial_id, result)
            return True
        self._scheduler.on_trial_complete(None, tune, result)
        self._searcher.on_trial_complete(tune.trial_id, result)
        return False


class Rule(Protocol):
    """Who goes on."""

    def goes_on(self, trial: Trial) -> bool:
        """Whether a trial continues at once; else it is paused, for good unless `promoted`."""

    def promoted(self) -> Trial | None:
        """A paused trial that is to continue."""


class Search:
    """A sampler and a rule."""

    def __init__(
        self,
        space: SearchSpace,
        sampler: Callable[[int], optuna.samplers.BaseSampler],
        rule: Rule,
        trials: int,
        *,
        raw: bool = False,
    ) -> None:
        """sampler: makes one from a seed. raw: readings are those of raw weights."""
        self._space, self._sampler, self._rule = space, sampler, rule
        self._limit, self._raw = trials, raw
        self._started: list[Trial] = []
        self._infeasible: list[Trial] = []
        self._in_a_row = 0
        self._frozen: dict[int, tuple[tuple[int, bool], optuna.trial.FrozenTrial]] = {}

    def next(self) -> Trial | None:
        trial = self._rule.promoted()
        if trial is not None:
            trial.running = True
            return trial
        if len(self._started) < self._limit:
            self._started.append(self._new())
            return self._started[-1]
        return None

    def ended(self, trial: Trial) -> bool:
        epoch = trial.epoch
        reading = trial.outcome.raw[epoch] if self._raw else trial.outcome.curve[epoch]
        # Between two readings of raw weights there is no rung, and no sampler looks.
        trial.values.append(float(trial.values[-1] if math.isnan(reading) else reading))
        trial.running = self._rule.goes_on(trial) and trial.epoch < EPOCHS
        return trial.running

    def _new(self) -> Trial:
        """A feasible trial, drawn as the project's own searcher draws."""
        while True:
            study = optuna.create_study()
            tried = [*self._started, *self._infeasible]
            frozen = [self._as_optuna(trial) for trial in sorted(tried, key=_drawn)]
            with mock.patch.object(copy, "deepcopy", _same):  # it would take most of the time
                study.add_trials(frozen)
            seed = derive_seed("sampler", self._space.search.seed, len(tried)) % 2**32
            random = self._in_a_row >= RANDOM_AFTER_INFEASIBLE
            study.sampler = optuna.samplers.RandomSampler(seed) if random else self._sampler(seed)
            asked = study.ask()
            config = self._space.suggest(asked)
            found = Trial(len(tried), _NOTHING, [], asked.params, asked.distributions)
            if _is_feasible(config):
                self._in_a_row = 0
                found.outcome = train(config, self._space.search.seed, len(self._started))
                return found
            self._in_a_row += 1
            self._infeasible.append(found)

    def _as_optuna(self, trial: Trial) -> optuna.trial.FrozenTrial:
        """The trial as Optuna sees it; the same object as long as nothing happens to it."""
        now = trial.epoch, trial.running
        if trial.number not in self._frozen or self._frozen[trial.number][0] != now:
            self._frozen[trial.number] = now, _frozen(trial)
        return self._frozen[trial.number][1]


def _same(value: Any, memo: Any = None) -> Any:
    return value


_NOTHING = Outcome(math.nan, np.empty(0), np.empty(0), math.nan)


def train(config: dict[str, Any], seed: int, number: int) -> Outcome:
    """What training gives; the noise is that of a search's seed and a trial's number."""
    return recorded().train(config, np.random.default_rng([seed, number]))


def quiet() -> None:
    """Show no warnings of this process: Optuna has one for each search."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def _drawn(trial: Trial) -> int:
    return trial.number


def _is_feasible(config: dict[str, Any]) -> bool:
    try:
        TrialConfig.from_dict(config).model.check(MNIST_SHAPE)
    except ConfigError:
        return False
    return True


def _frozen(trial: Trial) -> optuna.trial.FrozenTrial:
    """The trial as Optuna sees it, in its true state."""
    if trial.outcome is _NOTHING:
        state = TrialState.FAIL
    elif trial.running:
        state = TrialState.RUNNING
    else:
        state = TrialState.COMPLETE if trial.epoch == EPOCHS else TrialState.PRUNED
    return optuna.trial.create_trial(
        state=state,
        value=trial.values[-1] if state in {TrialState.COMPLETE, TrialState.PRUNED} else None,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=dict(enumerate(trial.values, start=1)),
    )
