"""Each trap of Ray's `OptunaSearch` and `ASHAScheduler`: ours is right where the stock is wrong."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from crnn_search.config import TrialConfig
from crnn_search.errors import RunError
from crnn_search.scheduler import FiniteAsha
from crnn_search.searcher import StudySearch, ending_state
from crnn_search.space import SearchSpace
from crnn_search.space_file import parse_space
from crnn_search.trainable import METRIC

TEXT = """
search: {trials: 20, max_epochs: 4, seed: 7}
first:
  - {dropout: 0.125, learning_rate: 0.01, gru_sizes: [32, 48]}
space:
  dropout: {float: [0.0, 0.5]}
  learning_rate: {float: [1.0e-4, 2.0e-2], log: true}
  gru_sizes: {list_of: {int: [32, 256], log: true}, length: [1, 3]}
"""


@pytest.fixture
def space() -> SearchSpace:
    return parse_space(TEXT)


def result(epoch: int, rmse: float, **more: Any) -> dict[str, Any]:
    return {"epoch": epoch, "training_iteration": epoch, METRIC: rmse, **more}


def stock(space: SearchSpace) -> OptunaSearch:
    sampler = optuna.samplers.TPESampler(seed=7)
    return OptunaSearch(space=space.suggest, metric=METRIC, mode="min", sampler=sampler)


def run_one(
    searcher: Any, results: list[dict[str, Any]], trial_id: str = "a", error: bool = False
) -> FrozenTrial:
    """Play one trial the way Tune does: its last result comes with its completion only."""
    searcher.suggest(trial_id)
    for item in results[:-1]:
        searcher.on_trial_result(trial_id, item)
    if error:
        searcher.on_trial_complete(trial_id, error=True)
    else:
        searcher.on_trial_complete(trial_id, result=results[-1])
    trial: FrozenTrial = searcher._ot_study.trials[-1]
    return trial


def test_a_stopped_trial_is_pruned_with_every_value(space: SearchSpace) -> None:
    results = [result(1, 5.0), result(2, 4.0)]
    trial = run_one(StudySearch(space), results)
    assert trial.state == TrialState.PRUNED
    assert trial.intermediate_values == {1: 5.0, 2: 4.0}
    assert run_one(stock(space), results).state == TrialState.COMPLETE  # the trap


def test_a_full_budget_trial_is_complete_with_every_value(space: SearchSpace) -> None:
    trial = run_one(StudySearch(space), [result(epoch, 5.0 - epoch) for epoch in (1, 2, 3, 4)])
    assert trial.state == TrialState.COMPLETE
    assert trial.value == 1.0
    assert trial.intermediate_values == {1: 4.0, 2: 3.0, 3: 2.0, 4: 1.0}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_no_number_is_a_failure(space: SearchSpace, value: float) -> None:
    results = [result(1, 5.0), result(2, value, failure="diverged")]
    trial = run_one(StudySearch(space), results)
    assert trial.state == TrialState.FAIL
    assert trial.intermediate_values == {1: 5.0}


def test_stock_leaves_a_nan_trial_running(space: SearchSpace) -> None:
    trial = run_one(stock(space), [result(1, math.nan)])
    assert trial.state == TrialState.RUNNING  # the trap


def test_an_error_is_a_failure(space: SearchSpace) -> None:
    trial = run_one(StudySearch(space), [result(1, 5.0), result(2, 4.0)], error=True)
    assert trial.state == TrialState.FAIL
    assert trial.intermediate_values == {1: 5.0}


@pytest.mark.parametrize(
    ("last", "error", "state"),
    [
        (result(4, 1.0), False, TrialState.COMPLETE),
        (result(3, 1.0), False, TrialState.PRUNED),
        (result(4, 1.0, failure="diverged"), False, TrialState.FAIL),
        (result(4, 1.0), True, TrialState.FAIL),
        (None, False, TrialState.FAIL),
        ({"epoch": 4}, False, TrialState.FAIL),
    ],
)
def test_how_a_trial_ended(last: dict[str, Any] | None, error: bool, state: TrialState) -> None:
    assert ending_state(last, 4, error=error) == state


def play(searcher: StudySearch, trials: int) -> list[dict[str, Any]]:
    """Run trials one at a time on a made-up objective; returns their configurations."""
    configs = []
    for number in range(trials):
        job = searcher.suggest(str(number))["job"]
        configs.append(job["config"])
        value = abs(math.log(job["config"]["learning_rate"] / 0.003)) + job["config"]["dropout"]
        epochs = 4 if number % 3 == 0 else 1
        for epoch in range(1, epochs):
            searcher.on_trial_result(str(number), result(epoch, value + 1 / epoch))
        searcher.on_trial_complete(str(number), result(epochs, value))
    return configs


def test_suggestions_are_repeatable(space: SearchSpace) -> None:
    assert play(StudySearch(space), 15) == play(StudySearch(space), 15)


def test_suggestions_depend_on_history_alone(space: SearchSpace) -> None:
    """Other draws in the same process, from other studies, change nothing."""
    first = play(StudySearch(space), 13)
    searcher = StudySearch(space)
    optuna.create_study(sampler=optuna.samplers.TPESampler(seed=1)).ask()
    assert play(searcher, 13) == first


def test_the_first_configuration_is_tried_first_and_once(space: SearchSpace) -> None:
    configs = play(StudySearch(space), 8)
    expected = {"dropout": 0.125, "learning_rate": 0.01, "gru_sizes": [32, 48]}
    assert configs[0].items() >= expected.items()
    assert sum(config["dropout"] == 0.125 for config in configs) == 1


def test_a_job_is_whole(space: SearchSpace) -> None:
    job = StudySearch(space).suggest("a")["job"]
    assert job["number"] == 0
    assert (job["epochs"], job["epoch_sequences"], job["max_digits"]) == (4, 60_000, 8)
    assert TrialConfig.from_dict(job["config"]).to_dict() == job["config"]


def test_seeds_differ_between_trials(space: SearchSpace) -> None:
    searcher = StudySearch(space)
    assert searcher.suggest("a")["job"]["seed"] != searcher.suggest("b")["job"]["seed"]


DEEP = """
search: {trials: 5, max_epochs: 2}
space:
  conv_channels: {list_of: {int: [2, 4]}, length: [1, 6]}
  kernel_size: 3
  padding: valid
"""


def test_impossible_networks_are_counted_and_passed_over() -> None:
    seen: list[tuple[int, str]] = []
    searcher = StudySearch(parse_space(DEEP), lambda n, config, reason: seen.append((n, reason)))
    for number in range(12):
        config = searcher.suggest(str(number))["job"]["config"]
        TrialConfig.from_dict(config)
        searcher.on_trial_complete(str(number), result(2, len(config["conv_channels"])))
    states = [trial.state for trial in searcher.study.trials]
    assert states.count(TrialState.COMPLETE) == 12
    assert states.count(TrialState.FAIL) == len(seen) > 0
    assert all("leaves no pixels" in reason for _, reason in seen)


def test_a_space_of_impossible_networks_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crnn_search.searcher._infeasibility", lambda config: "no pixels")
    monkeypatch.setattr("crnn_search.searcher.MAX_INFEASIBLE_IN_A_ROW", 3)
    with pytest.raises(RunError, match="3 sampled networks in a row were impossible"):
        StudySearch(parse_space(DEEP)).suggest("a")


def asha() -> FiniteAsha:
    return FiniteAsha(max_epochs=4, grace_epochs=1, reduction_factor=2)


def rungs(scheduler: ASHAScheduler) -> dict[float, dict[str, float]]:
    return {milestone: dict(values) for milestone, values in scheduler._brackets[0]._rungs}


def report(scheduler: ASHAScheduler, name: str, item: dict[str, Any]) -> str:
    trial = SimpleNamespace(trial_id=name)
    if name not in scheduler._trial_info:
        scheduler.on_trial_add(None, trial)
    return str(scheduler.on_trial_result(None, trial, item))


def test_a_failed_trial_leaves_no_trace_in_a_rung() -> None:
    scheduler = asha()
    assert report(scheduler, "good", result(1, 5.0)) == TrialScheduler.CONTINUE
    before = rungs(scheduler)
    assert report(scheduler, "nan", result(1, math.nan)) == TrialScheduler.STOP
    assert report(scheduler, "bad", result(1, 99.0, failure="diverged")) == TrialScheduler.STOP
    for name, value in (("nan", math.nan), ("bad", 99.0)):
        trial = SimpleNamespace(trial_id=name)
        scheduler.on_trial_complete(None, trial, result(1, value, failure="diverged"))
    assert rungs(scheduler) == before


def test_stock_asha_goes_on_with_a_nan() -> None:
    scheduler = ASHAScheduler("epoch", METRIC, "min", max_t=4, reduction_factor=2)
    report(scheduler, "good", result(1, 5.0))
    assert report(scheduler, "nan", result(1, math.nan)) == TrialScheduler.CONTINUE  # the trap
    assert len(rungs(scheduler)[1]) == 2


def test_asha_stops_the_worse_and_keeps_the_better() -> None:
    scheduler = asha()
    for name, value in (("a", 5.0), ("b", 4.0)):
        assert report(scheduler, name, result(1, value)) == TrialScheduler.CONTINUE
    assert report(scheduler, "c", result(1, 6.0)) == TrialScheduler.STOP
    assert report(scheduler, "b", result(4, 1.0)) == TrialScheduler.STOP  # its budget is used up
