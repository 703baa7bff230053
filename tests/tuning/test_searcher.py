"""Each trap of Ray's `OptunaSearch`: `StudySearcher` is right where the stock one is wrong."""

from __future__ import annotations

import math
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from ray import tune
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from crnn_search.hyperparameters import (
    Arithmetic,
)
from crnn_search.spaces.file import parse_space
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage import trial as storage
from crnn_search.storage.trial import METRIC, InfeasibleTrial, Trial, TrialRecord
from crnn_search.tuning import sampler
from crnn_search.tuning.epoch_result import ending_state
from crnn_search.tuning.searcher import StudySearcher
from crnn_search.tuning.stage_callback import NoCallback
from tests.tuning.examples import result

TEXT = """
search: {trials: 20, max_epochs: 4, seed: 7}
first:
  - {dropout: 0.125, learning_rate: 0.01, gru_sizes: [32, 48]}
space:
  dropout: {float: [0.0, 0.5]}
  learning_rate: {float: [1.0e-4, 2.0e-2], log: true}
  gru_sizes: {list_of: {int: [32, 256], log: true}, length: [1, 3]}
"""
DEEP = """
search: {trials: 12, max_epochs: 2}
space:
  conv_channels: {list_of: {int: [2, 4]}, length: [1, 6]}
  kernel_size: 3
  padding: valid
"""


class Records(NoCallback):
    """Has the records of a stage, without files; allows some retries."""

    def __init__(self, retries: int = 0) -> None:
        self.records: dict[str, TrialRecord] = {}
        self.infeasible: list[InfeasibleTrial] = []
        self.retries = retries

    def on_trial_created(self, trial: Trial) -> None:
        self.records[trial.name] = TrialRecord(trial)

    def on_trial_infeasible(self, trial: InfeasibleTrial) -> None:
        self.infeasible.append(trial)

    def retry(self, trial_id: str) -> Trial | None:
        self.retries -= 1
        return self.records[trial_id].trial if self.retries >= 0 else None


@pytest.fixture
def space() -> SearchSpace:
    return parse_space(TEXT)


def stock(space: SearchSpace) -> OptunaSearch:
    sampler = optuna.samplers.TPESampler(seed=7)
    return OptunaSearch(space=space.suggest, metric=METRIC, mode="min", sampler=sampler)


def suggested(searcher: StudySearcher, trial_id: str) -> Trial:
    answer = searcher.suggest(trial_id)
    assert isinstance(answer, dict)
    return Trial.from_dict(answer["trial"])


def run_one(
    searcher: Any, results: list[dict[str, Any]], trial_id: str = "a", error: bool = False
) -> FrozenTrial:
    """Run one trial as Tune does: its last result comes with its completion only."""
    searcher.suggest(trial_id)
    for item in results[:-1]:
        searcher.on_trial_result(trial_id, item)
    if error:
        searcher.on_trial_complete(trial_id, error=True)
    else:
        searcher.on_trial_complete(trial_id, result=results[-1])
    study = searcher._ot_study if isinstance(searcher, OptunaSearch) else searcher.study
    trial: FrozenTrial = study.trials[-1]
    return trial


def play(searcher: StudySearcher, trials: int, sign: float = 1.0) -> list[dict[str, Any]]:
    """Run trials one at a time on a simple objective; returns their configurations."""
    configs = []
    for number in range(trials):
        config = suggested(searcher, str(number)).config.to_dict()
        configs.append(config)
        value = 9 + sign * (abs(math.log(config["learning_rate"] / 0.003)) + config["dropout"])
        epochs = 4 if number % 3 == 0 else 1
        for epoch in range(1, epochs):
            searcher.on_trial_result(str(number), result(epoch, value + 1 / epoch))
        searcher.on_trial_complete(str(number), result(epochs, value))
    return configs


def test_stopped_trial_is_pruned_with_every_value(space: SearchSpace) -> None:
    results = [result(1, 5.0), result(2, 4.0)]
    trial = run_one(StudySearcher(space), results)
    assert trial.state == TrialState.PRUNED
    assert trial.intermediate_values == {1: 5.0, 2: 4.0}
    assert run_one(stock(space), results).state == TrialState.COMPLETE  # the trap


def test_full_budget_trial_is_complete_with_every_value(space: SearchSpace) -> None:
    trial = run_one(StudySearcher(space), [result(epoch, 5.0 - epoch) for epoch in (1, 2, 3, 4)])
    assert trial.state == TrialState.COMPLETE
    assert trial.value == 1.0
    assert trial.intermediate_values == {1: 4.0, 2: 3.0, 3: 2.0, 4: 1.0}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_fails_the_trial(space: SearchSpace, value: float) -> None:
    results = [result(1, 5.0), result(2, value, failure="diverged")]
    trial = run_one(StudySearcher(space), results)
    assert trial.state == TrialState.FAIL
    assert trial.intermediate_values == {1: 5.0}


def test_stock_searcher_leaves_a_nan_trial_running(space: SearchSpace) -> None:
    trial = run_one(stock(space), [{"training_iteration": 1, METRIC: math.nan}])
    assert trial.state == TrialState.RUNNING  # the trap


def test_error_fails_the_trial(space: SearchSpace) -> None:
    trial = run_one(StudySearcher(space), [result(1, 5.0), result(2, 4.0)], error=True)
    assert trial.state == TrialState.FAIL
    assert trial.intermediate_values == {1: 5.0}


def test_trial_that_never_reported_has_failed(space: SearchSpace) -> None:
    trial = run_one(StudySearcher(space), [{"trial_id": "a"}])
    assert trial.state == TrialState.FAIL


@pytest.mark.parametrize(
    ("epoch", "validation_rmse", "failed", "state"),
    [
        (4, 1.0, False, storage.TrialState.COMPLETE),
        (3, 1.0, False, storage.TrialState.PRUNED),
        (3, 0.0, False, storage.TrialState.PRUNED),
        (4, 1.0, True, storage.TrialState.FAIL),
        (4, math.nan, False, storage.TrialState.FAIL),
        (4, None, False, storage.TrialState.FAIL),
    ],
)
def test_ending_state(
    epoch: int, validation_rmse: float | None, failed: bool, state: storage.TrialState
) -> None:
    assert ending_state(epoch, validation_rmse, 4, failed=failed) == state


def test_suggestions_are_repeatable(space: SearchSpace) -> None:
    assert play(StudySearcher(space), 15) == play(StudySearcher(space), 15)


def test_suggestions_depend_on_history_only(space: SearchSpace) -> None:
    """Other draws in the same process, from other studies, change nothing."""
    first = play(StudySearcher(space), 13)
    searcher = StudySearcher(space)
    optuna.create_study(sampler=optuna.samplers.TPESampler(seed=1)).ask()
    assert play(searcher, 13) == first


def test_random_samples_depend_on_no_values() -> None:
    space = parse_space(TEXT, ["search.sampler=random"])
    configs = play(StudySearcher(space), 20)
    assert play(StudySearcher(space), 20, sign=-1.0) == configs
    assert configs[0]["dropout"] == 0.125, "an entry of first"
    tpe = parse_space(TEXT)
    assert play(StudySearcher(tpe), 20) != play(StudySearcher(tpe), 20, sign=-1.0)


def test_first_configuration_is_tried_first_and_once(space: SearchSpace) -> None:
    configs = play(StudySearcher(space), 8)
    expected = {"dropout": 0.125, "learning_rate": 0.01, "gru_sizes": [32, 48]}
    assert configs[0].items() >= expected.items()
    assert sum(config["dropout"] == 0.125 for config in configs) == 1


def test_configuration_is_tried_first_where_the_sampler_sees_only_some_trials(
    space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = StudySearcher(space)
    play(earlier, 6)
    monkeypatch.setattr(sampler, "MAX_TRIALS", 3)
    monkeypatch.setattr(sampler, "BEST", 1)
    searcher = StudySearcher(space, earlier=earlier.study.trials)
    configs = play(searcher, 3)
    assert [config["dropout"] == 0.125 for config in configs] == [True, False, False]
    assert [trial.number for trial in searcher.study.trials] == list(range(9))
    sampled = searcher.study.trials[6:]
    assert [trial.params["dropout"] for trial in sampled] == [c["dropout"] for c in configs]


def test_stock_searcher_tries_the_first_configurations_again_when_created_again() -> None:
    points = [{"x": 0.25}]

    def space(trial: optuna.Trial) -> None:
        trial.suggest_float("x", 0, 1)

    seen = []
    storage = optuna.storages.InMemoryStorage()
    for _ in range(2):
        searcher = OptunaSearch(
            space, METRIC, "min", points_to_evaluate=points, storage=storage, study_name="one"
        )
        seen.append(searcher.suggest("a"))
    assert seen == [{"x": 0.25}, {"x": 0.25}]  # the trap
    states = [trial.state for trial in searcher._ot_study.trials]
    assert states == [TrialState.RUNNING] * 2  # and that of the first will for ever


def test_trial_has_the_budget_of_the_search_and_the_arithmetic_of_the_run(
    space: SearchSpace,
) -> None:
    arithmetic = Arithmetic("bfloat16", cpu_kernels=True)
    trial = suggested(StudySearcher(space, arithmetic), "a")
    assert trial.number == 0
    assert (trial.epochs, trial.epoch_sequences, trial.data) == (4, 60_000, "mnist_sums/8")
    assert trial.arithmetic == arithmetic


def test_seeds_differ_between_trials(space: SearchSpace) -> None:
    searcher = StudySearcher(space)
    assert suggested(searcher, "a").seed != suggested(searcher, "b").seed


def test_retried_trial_is_the_same_trial_of_the_study(space: SearchSpace) -> None:
    searcher = StudySearcher(space, callback=Records(retries=1))
    trial = suggested(searcher, "trial-0000")
    searcher.on_trial_result("trial-0000", result(1, 5.0))
    searcher.on_trial_complete("trial-0000", error=True)
    assert suggested(searcher, "again") == trial
    searcher.on_trial_result("again", result(1, 5.0))  # repeated by the new process
    searcher.on_trial_complete("again", result(4, 1.0))
    (frozen,) = searcher.study.trials
    assert frozen.state == TrialState.COMPLETE
    assert frozen.intermediate_values == {1: 5.0, 4: 1.0}


def test_trial_without_retries_left_has_failed(space: SearchSpace) -> None:
    searcher = StudySearcher(space, callback=Records())
    suggested(searcher, "trial-0000")
    searcher.on_trial_complete("trial-0000", result(0, out_of_memory="none is left"))
    assert searcher.study.trials[0].state == TrialState.FAIL


def test_search_waits_for_running_trials_which_may_be_retried(space: SearchSpace) -> None:
    searcher = StudySearcher(space)
    for number in range(20):
        suggested(searcher, str(number))
    assert searcher.suggest("more") is None
    for number in range(20):
        searcher.on_trial_complete(str(number), result(1, 3.0))
    assert not searcher.finished
    assert searcher.suggest("more") == Searcher.FINISHED
    assert searcher.finished


def test_bounds_are_inclusive() -> None:
    """Stock conversion takes the upper bound of an integer as exclusive, Optuna as inclusive."""
    converted = OptunaSearch.convert_search_space({"batch_size": tune.randint(1, 2)})
    assert converted["batch_size"].high == 1  # the trap
    searcher = StudySearcher(
        parse_space("search: {trials: 30}\nspace: {batch_size: {int: [1, 2]}}")
    )
    sizes = {suggested(searcher, str(n)).config.training.batch_size for n in range(30)}
    assert sizes == {1, 2}


def test_no_more_trials_than_the_capacity(space: SearchSpace) -> None:
    searcher = StudySearcher(space)
    capacity = 1
    searcher.capacity = lambda: capacity
    assert searcher.suggest("a") is not None
    assert searcher.suggest("b") is None
    capacity = 2  # a node has joined
    assert searcher.suggest("b") is not None
    capacity = 1  # and has left
    searcher.on_trial_complete("b", result(1, 5.0))
    assert searcher.suggest("c") is None
    searcher.on_trial_complete("a", result(1, 5.0))
    assert searcher.suggest("c") is not None
