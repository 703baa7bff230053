"""Searches on recorded curves: who goes on, what the sampler knows, what is compared."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks import sampling, variants
from benchmarks.landscape import Outcome, recorded
from benchmarks.record_curves import EPOCHS, RAW_EPOCHS
from benchmarks.replay import Trial, replay
from benchmarks.rules import FirstBest, Pasha, Promotion, Stopping
from crnn_search.hyperparameters import TrialConfig
from crnn_search.spaces.space import feasible, sample

OUTCOME = Outcome(1.0, np.ones(EPOCHS), np.ones(EPOCHS), 1.0)


def trials(count: int) -> list[Trial]:
    return [Trial(number, OUTCOME) for number in range(count)]


def train(rule: Promotion | FirstBest, trial: Trial, *values: float) -> bool:
    """Readings of some epochs; whether the trial goes on after the last."""
    goes_on = False
    for value in values:
        trial.values.append(value)
        goes_on = rule.goes_on(trial)
    return goes_on


def test_true_states_are_those_of_the_projects_searcher() -> None:
    space = variants.space_of(3)
    ours = list(replay(variants.today(space, 14), 3))
    put_together = variants.made(variants.MULTIVARIATE, lambda: Stopping(1, 3), space, 14)
    steps = list(replay(put_together, 3))
    assert [step[:2] + step[3:] for step in steps] == [step[:2] + step[3:] for step in ours]
    assert len({step.number for step in steps}) == 14


@pytest.mark.parametrize("name", variants.VARIANTS)
def test_each_kind_of_search_trains(name: str) -> None:
    steps = list(replay(variants.VARIANTS[name](variants.space_of(0), 6), 2))
    assert len({step.number for step in steps}) == 6
    assert all(math.isfinite(step.truth) and step.seconds > 0 for step in steps)
    assert [step.now for step in steps] == sorted(step.now for step in steps)
    epochs = [step.epoch for step in steps if step.number == steps[0].number]
    assert epochs == list(range(1, len(epochs) + 1))


def test_promotion_continues_the_best_third_of_a_rung() -> None:
    rule, some = Promotion(1, 3), trials(6)
    for trial, value in zip(some[:2], (5.0, 4.0), strict=True):
        assert not train(rule, trial, value)
    assert rule.promoted() is None, "a third of two trials is none"
    train(rule, some[2], 6.0)
    assert rule.promoted() is some[1]
    assert rule.promoted() is None
    assert train(rule, some[1], 3.9)
    assert not train(rule, some[1], 3.8), "it pauses again at epoch 3"
    for trial in some[3:]:
        train(rule, trial, 7.0 + trial.number)
    assert rule.promoted() is some[0]


def test_pasha_adds_epochs_only_while_ranks_change() -> None:
    stable, unstable = Pasha(1, 3, 0.02), Pasha(1, 3, 0.02)
    for rule, last in ((stable, (3.0, 3.5)), (unstable, (3.5, 3.0))):
        some = trials(6)
        for trial in some:
            train(rule, trial, 4.0 + trial.number)
        assert [rule.promoted(), rule.promoted()] == some[:2]
        for trial, value in zip(some[:2], last, strict=True):
            train(rule, trial, 3.9, value)
    assert stable.highest == 3
    assert unstable.highest == 9


def test_the_best_after_some_epochs_continue_to_the_end() -> None:
    rule, some = FirstBest(2, trials=4, kept=2), trials(4)
    for trial, value in zip(some, (4.0, 1.0, 3.0, 2.0), strict=True):
        assert rule.promoted() is None
        assert train(rule, trial, 9.0)
        assert not train(rule, trial, value)
    assert [rule.promoted(), rule.promoted(), rule.promoted()] == [some[1], some[3], None]
    assert train(rule, some[1], 1.0)


def test_every_width_is_asked_for() -> None:
    space = variants.space_of(0)
    for kind in (variants.AlwaysAll, variants.Ratios):
        for config in sample(variants.with_lists(space, kind), 0, 50):
            assert space.problems_of(config) == []


def test_a_recorded_configuration_is_as_recorded_but_for_noise() -> None:
    landscape, rng = recorded(), np.random.default_rng(0)
    space = variants.space_of(0)
    configs = [c.to_dict() for c in feasible(space, sample(space, 2024, 600))][:300]
    assert landscape.process.mean(landscape.x[0]) == pytest.approx(landscape.y[0], abs=0.15)
    assert landscape.explained() > 0.9
    assert landscape.explained_seconds() > 0.5
    found = [landscape.train(configs[0], rng) for _ in range(200)]
    assert len({outcome.truth for outcome in found}) == 1
    last = np.log([outcome.curve[-1] for outcome in found])
    assert last.mean() == pytest.approx(math.log(found[0].truth), abs=0.1)
    assert last.std() > 0
    assert np.flatnonzero(np.isfinite(found[0].raw)).tolist() == [e - 1 for e in RAW_EPOCHS]
    assert TrialConfig.from_dict(configs[0]).to_dict() == configs[0]


def test_compute_needed_is_a_share_of_the_references() -> None:
    falling = np.linspace(3, 1, len(sampling.GRID))[None]
    faster = np.maximum(falling - 0.5, 1.0)
    assert sampling.needed(falling, falling) == 1.0
    assert 0.5 < sampling.needed(faster, falling) < 0.8
    assert math.isinf(sampling.needed(falling + 2, falling))


def test_the_best_trial_is_among_those_that_trained_longest() -> None:
    times, values = sampling.search("random, ASHA", 0, 9, math.inf)
    steps = list(replay(variants.VARIANTS["random, ASHA"](variants.space_of(0), 9), 4))
    longest = max(step.epoch for step in steps)
    best = min((s for s in steps if s.epoch == longest), key=lambda s: s.validation_rmse)
    assert values[-1] == best.truth
    assert times[-1] == pytest.approx(sum(step.seconds for step in steps))
    grid = sampling.on_grid(times, values, times[-1])
    assert grid[-1] == grid[100] == best.truth
