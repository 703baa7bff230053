"""Simulated runs: the real scheduler, trials of known speed, no training."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.schedulers import TrialScheduler

from crnn_search.spaces.file import parse_space
from crnn_search.spaces.space import SearchSpace
from crnn_search.training.probe import Cost
from crnn_search.tuning import replay as replay_module
from crnn_search.tuning.replay import Costs, Work, replay, replay_run, replay_whole
from crnn_search.tuning.scheduler import Asha
from tests.tuning.examples import result, trial, tune_trial

COST = Cost(search_epoch_s=2.0, retrain_epoch_s=3.0, memory_mb=500.0)
ALIKE = Costs((), (COST,), COST)


def space_of(**search: int) -> SearchSpace:
    settings = ", ".join(f"{name}: {value}" for name, value in search.items())
    return parse_space(
        f"search: {{{settings}}}\nretrain: {{epochs: 5, seeds: 2, finalists: 3}}\nspace: {{}}"
    )


def counted(
    asha: Asha, max_epochs: int, seconds: list[int], rmse: list[float], concurrent: int
) -> tuple[list[int], float]:
    """The epochs of each trial and the time of the last end, epoch by epoch as Ray Tune asks."""
    now, waiting = 0, list(range(len(seconds)))
    running: dict[int, int] = {}  # when each trial's epoch ends
    epochs = [0] * len(seconds)
    while waiting or running:
        while waiting and len(running) < concurrent:
            number = waiting.pop(0)
            running[number] = now + seconds[number]
        number = min(running, key=lambda n: (running[n], n))
        now = running.pop(number)
        epochs[number] += 1
        item = result(epochs[number], rmse[number], done=epochs[number] == max_epochs)
        own = tune_trial(trial(number))
        decision: Any = asha.on_trial_result(None, own, item)
        if decision == TrialScheduler.STOP:
            asha.on_trial_complete(None, own, item)
        else:
            running[number] = now + seconds[number]
    return epochs, now


@st.composite
def searches(draw: st.DrawFn) -> tuple[dict[str, Any], list[int], list[float], int]:
    """ASHA's settings, and of each trial the seconds of an epoch and the RMSE."""
    grace = draw(st.integers(1, 3))
    settings: dict[str, Any] = {
        "max_epochs": grace * draw(st.integers(1, 12)),
        "grace_epochs": grace,
        "reduction_factor": draw(st.integers(2, 4)),
    }
    trials = st.tuples(st.integers(1, 9), st.floats(-3, 3))
    found = draw(st.lists(trials, min_size=1, max_size=30))
    seconds, rmse = [list(values) for values in zip(*found, strict=True)]
    return settings, seconds, rmse, draw(st.integers(1, 40))


@given(searches())
def test_replay_counts_as_epoch_by_epoch(
    search: tuple[dict[str, Any], list[int], list[float], int],
) -> None:
    settings, seconds, rmse, concurrent = search
    most = settings["max_epochs"]
    expected, end = counted(Asha(**settings), most, seconds, rmse, concurrent)
    work, epochs = replay(Asha(**settings), most, seconds, rmse, concurrent)
    assert epochs == expected
    assert work == Work(
        sum(expected), sum(n * s for n, s in zip(expected, seconds, strict=True)), end
    )


def test_one_trial_trains_its_whole_budget() -> None:
    searched, finalists, retrained = replay_run(
        space_of(trials=1, max_epochs=27), ALIKE, 4, random.Random(0)
    )
    assert searched == Work(27, 54.0, 54.0)
    assert finalists == Work(0, 0.0, 0.0), "a single finalist is not repeated"
    assert retrained == Work(4 * 5, 60.0, 15.0), "all four at once"


def test_without_early_stopping_every_trial_trains_whole() -> None:
    space = space_of(trials=7, max_epochs=6, grace_epochs=6)
    searched, finalists, retrained = replay_run(space, ALIKE, 2, random.Random(0))
    assert searched == Work(7 * 6, 84.0, 4 * 12.0), "in four waves"
    assert finalists == Work(6 * 6, 72.0, 3 * 12.0)
    assert retrained == Work(4 * 5, 60.0, 2 * 15.0)


def test_a_free_place_is_taken_at_once() -> None:
    assert replay_whole(2, [5.0, 1.0, 1.0, 1.0], 2) == Work(8, 16.0, 10.0)
    assert replay_whole(2, [], 2) == Work(0, 0.0, 0.0)


def test_first_and_baseline_take_what_was_measured_of_them() -> None:
    first, baseline = Cost(70.0, 700.0, 1.0), Cost(1.0, 1000.0, 1.0)
    costs = Costs((first,), (COST,), baseline)
    space = space_of(trials=1, max_epochs=1)
    searched, _, retrained = replay_run(space, costs, 1, random.Random(0))
    assert searched.trial_s == 70.0
    assert retrained.trial_s == 2 * 5 * (700.0 + 1000.0)


def test_a_large_search_is_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_module, "MAX_TRIALS", 10)
    space = space_of(trials=1000, max_epochs=3, grace_epochs=3)
    assert replay_run(space, ALIKE, 2, random.Random(0))[0] == Work(3000.0, 6000.0, 3000.0)


def test_learning_lets_more_trials_survive(monkeypatch: pytest.MonkeyPatch) -> None:
    space = space_of(trials=300, max_epochs=27, grace_epochs=1)

    def mean_epochs(learning: float) -> float:
        monkeypatch.setattr(replay_module, "MAX_LEARNING", learning)
        draws = random.Random(1)
        return sum(replay_run(space, ALIKE, 4, draws)[0].epochs for _ in range(20)) / 20

    assert 1.2 * mean_epochs(0.0) < mean_epochs(1.0) < 300 * 27


def test_a_random_sampler_does_not_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    space = space_of(trials=300, max_epochs=27)
    sampled = dataclasses.replace(
        space, search=space.search.model_copy(update={"sampler": "random"})
    )
    found = replay_run(sampled, ALIKE, 4, random.Random(1))
    monkeypatch.setattr(replay_module, "MAX_LEARNING", 0.0)
    assert found == replay_run(space, ALIKE, 4, random.Random(1))


def test_equal_draws_give_equal_runs() -> None:
    space = space_of(trials=20, max_epochs=9)
    other = dataclasses.replace(COST, search_epoch_s=20.0)
    costs = Costs((), (COST, other), COST)
    first, again, third = (replay_run(space, costs, 2, random.Random(seed)) for seed in (3, 3, 4))
    assert first == again != third
