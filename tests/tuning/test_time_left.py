"""The time that the rest of a run takes, from what its trials were measured at."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import pytest

from crnn_search.hyperparameters import TrialConfig
from crnn_search.spaces.file import parse_space
from crnn_search.storage.trial import TrialRecord, TrialState
from crnn_search.training.metrics import EpochMetrics
from crnn_search.tuning import time_left
from crnn_search.tuning.budget import Budget, Limit
from crnn_search.tuning.progress import Records, TimeRange
from crnn_search.tuning.time_left import TimeLeft
from tests.tuning.examples import SMALL, trial

SEQUENCE_S, VALIDATION_S = 0.01, 1.0
EPOCH_S = 100 * SEQUENCE_S + VALIDATION_S

Made = tuple[TimeLeft, Records]


@pytest.fixture(autouse=True)
def _no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_left, "KEPT_S", -1.0)
    monkeypatch.setattr(time_left, "SHARE", math.inf)
    monkeypatch.setattr(time_left, "SPEED_SPREAD", 0.0)


def made(budget: Budget = Budget(), elapsed_s: float = 0.0, **search: Any) -> Made:  # noqa: B008
    """A run whose first three trials have trained their full budget of four epochs."""
    settings = {"trials": 3, "max_epochs": 4, "epoch_sequences": 100, "grace_epochs": 4} | search
    text = ", ".join(f"{name}: {value}" for name, value in settings.items())
    retrain = "retrain: {epochs: 5, epoch_sequences: 200, seeds: 2, finalists: 2}"
    space = parse_space(f"search: {{{text}}}\n{retrain}\nspace: {{dropout: {{float: [0, 0.5]}}}}")
    records: Records = {"search": {}}
    left = TimeLeft(Limit(budget, space, 2, lambda: elapsed_s, Budget(0, 0, 0)), records)
    for number in range(3):
        record = new(number, 4)
        record.state = TrialState.COMPLETE
        records["search"][record.trial.name] = record
        left.measure(record.trial, metrics(EPOCH_S))
    return left, records


def new(number: int, trained: int, stage: str = "", **changes: Any) -> TrialRecord:
    """A trial that is running after so many epochs."""
    config = TrialConfig.from_dict(SMALL.to_dict() | {"dropout": number / 10})
    own = trial(number, config=config, epoch_sequences=100, **changes)
    own = dataclasses.replace(own, name=own.name + stage)
    rmse: list[float | None] = [] if own.all_images else [3.0 + number] * trained
    return TrialRecord(own, rmse, [1.0] * trained)


def metrics(seconds: float) -> EpochMetrics:
    return EpochMetrics(1, 1.0, 3.0, 0.1, 1 / SEQUENCE_S, 0.1, 1.0, seconds)


def of(found: TimeRange | None) -> tuple[float, float]:
    assert found
    assert found.low_s is not None
    return found.low_s, found.high_s


# After the search: two finalists with two seeds each; two retrainings of the winner and two of a
# baseline of half to twice its speed; the report scores four networks on three tables each.
FINALISTS_S = 2 * 4 * EPOCH_S
RETRAIN_S = 5 * 200 * SEQUENCE_S
REPORT_S = 3 * 4 * VALIDATION_S


def test_what_follows_a_search_counts() -> None:
    left, records = made()
    low, high = of(left("search", {}))
    known = FINALISTS_S + REPORT_S
    assert known + RETRAIN_S * 1.5 <= low + 0.01
    assert high - 0.01 <= known + RETRAIN_S * 3
    assert low < high
    repeated = [new(n, 0, f"-seed-{k}") for n in range(2) for k in range(2)]
    records["finalists"] = {record.trial.name: record for record in repeated}
    assert of(left("finalists", {})) == pytest.approx((low, high), rel=0.05)
    half = {record.trial.name: 2.0 for record in repeated[:2]}
    shorter = of(left("finalists", half))
    assert shorter == pytest.approx((low - 2 * EPOCH_S, high - 2 * EPOCH_S), rel=0.05)


def test_a_stage_takes_as_long_to_start_as_the_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    low, high = of(made()[0]("search", {}))
    now = iter([0.0, 20.0 + EPOCH_S])
    monkeypatch.setattr(time, "monotonic", lambda: next(now, 100.0))
    late, records = made()
    assert late._start_s == 20.0
    assert of(late("search", {})) == pytest.approx((low + 40.0, high + 40.0), abs=0.01)
    records["finalists"] = {"a": new(0, 4, "-seed-0")}
    assert of(late("finalists", {}))[0] == pytest.approx(low - FINALISTS_S + 20.0, rel=0.05)


def test_a_retraining_has_no_validation_and_is_measured_itself() -> None:
    left, records = made()
    options: Any = {"all_images": True, "epochs": 5}
    again = [new(0, 0, f"-retrained-{k}", **options) for k in range(2)]
    baseline = new(9, 1, "-retrained", **options)
    records["retrain"] = {record.trial.name: record for record in (*again, baseline)}
    left.measure(baseline.trial, dataclasses.replace(metrics(0.5), sequences_per_s=200.0))
    expected = 5 * 1.0 + 4 * 0.5 + REPORT_S  # the baseline's epochs take half as long
    low, high = of(left("retrain", {}))
    assert high <= 5 * 1.0 + 5 * 1.0 + REPORT_S
    assert low == pytest.approx(expected, rel=0.5)


def test_nothing_is_said_before_three_configurations_are_measured() -> None:
    left, records = made()
    fresh = TimeLeft(left._limit, records)
    for record in list(records["search"].values())[:2]:
        fresh.measure(record.trial, metrics(EPOCH_S))
        assert fresh("search", {}) is None
    records["retrain"] = {"a": new(0, 0, all_images=True)}
    assert fresh("retrain", {}) is not None


def test_coming_trials_take_as_long_as_those_that_were_measured() -> None:
    done, _ = made()
    more, _ = made(trials=11)
    eight_trials_s = 8 * 4 * EPOCH_S / 2
    expected = [value + eight_trials_s for value in of(done("search", {}))]
    assert of(more("search", {})) == pytest.approx(expected, rel=0.1)


def test_a_running_trial_takes_the_rest_of_its_epochs() -> None:
    left, records = made(trials=4)
    record = new(3, 2)
    records["search"][record.trial.name] = record
    early = of(left("search", {}))
    late = of(left("search", {record.trial.name: 3.5}))
    expected = [value - 1.5 * EPOCH_S for value in early]
    assert late == pytest.approx(expected, abs=0.01)


def test_early_stopping_is_simulated() -> None:
    """The rungs hold the trials so far: most of the coming ones are stopped."""
    whole, _ = made(trials=40)
    stopped, _ = made(trials=40, grace_epochs=1, reduction_factor=4)
    assert of(stopped("search", {}))[1] < 0.8 * of(whole("search", {}))[0]


def test_a_budget_of_time_ends_the_search_but_not_what_follows() -> None:
    endless, _ = made(trials=100)
    later, _ = made()
    short, _ = made(Budget(time_s=60.0), elapsed_s=50.0, trials=100)
    assert of(short("search", {})) == pytest.approx(of(later("search", {})), rel=0.1)
    long, _ = made(Budget(time_s=150.0), elapsed_s=50.0, trials=100)
    assert of(long("search", {})) == pytest.approx((100.0, 100.0))
    assert of(endless("search", {}))[0] > 150.0


@pytest.mark.parametrize(
    ("budget", "search"),
    [(Budget(core_seconds=1e6), {}), (Budget(), {"target": 0.1}), (Budget(), {"patience": 5})],
)
def test_a_search_that_may_end_at_any_time_has_no_least(
    budget: Budget, search: dict[str, Any]
) -> None:
    left, _ = made(budget, trials=30, **search)
    found = left("search", {})
    assert found
    assert found.low_s is None
    assert math.isfinite(found.high_s)


def test_an_answer_is_kept_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time_left, "KEPT_S", 100.0)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    left, records = made()
    low, high = of(left("search", {}))
    records["search"].clear()
    now += 2.0
    assert of(left("search", {})) == pytest.approx((low - 2.0, high - 2.0))
    now += 200.0
    assert of(left("search", {})) != pytest.approx((low - 202.0, high - 202.0))


def test_random_samples_do_not_learn() -> None:
    """A sampler that learns has better trials later, more of which survive."""
    middles = {}
    for sampler in ("tpe", "random"):
        left, _ = made(trials=200, grace_epochs=1, reduction_factor=2, sampler=sampler)
        low, high = of(left("search", {}))
        middles[sampler] = (low + high) / 2
    assert middles["random"] < middles["tpe"]
