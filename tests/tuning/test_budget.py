from __future__ import annotations

import dataclasses

import pytest

from crnn_search.errors import InputError
from crnn_search.spaces.file import parse_space
from crnn_search.storage.trial import TrialRecord, TrialState
from crnn_search.tuning.budget import Budget, Limit, later_stages, parse_budget
from tests.tuning import examples

SPACE = parse_space("""
search: {trials: 5, max_epochs: 4, epoch_sequences: 100}
retrain: {epochs: 2, epoch_sequences: 100, seeds: 2, finalists: 2}
space: {}
""")


@pytest.mark.parametrize(
    ("time", "compute", "expected"),
    [
        (None, None, Budget()),
        ("2h", None, Budget(time_s=7200)),
        ("1h30min", "20gpuh", Budget(time_s=5400, gpu_seconds=72_000)),
        (None, "0.5corehours", Budget(core_seconds=1800)),
    ],
)
def test_valid_budgets(time: str | None, compute: str | None, expected: Budget) -> None:
    assert parse_budget(time, compute) == expected


@pytest.mark.parametrize(
    "text", ["", "2", "two hours", "0h", "-1h", "2h3", "1000001h", "9" * 400 + "d"]
)
def test_invalid_time_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--time-budget must be a time above 0, such as 2h"):
        parse_budget(text, None)


@pytest.mark.parametrize("text", ["", "20", "0gpuh", "20 bananas", "9" * 400 + "gpuh"])
def test_invalid_amount_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--compute-budget must be a number above 0 and gpuh"):
        parse_budget(None, text)


def record(number: int = 0, seconds: float = 20, rmse: float | None = 0.5) -> TrialRecord:
    """Two epochs, of 10 s each by default, on one core."""
    known = examples.record(number, 1.0, rmse)
    return dataclasses.replace(known, seconds=seconds, core_seconds=seconds)


def test_what_follows_a_search() -> None:
    repetitions, retrainings = later_stages(SPACE, 3)
    assert repetitions == (3 * 2, 4, 100)
    assert retrainings == (2 * 2, 2, 100), "the winner and a baseline"
    assert later_stages(SPACE, 1)[0].trials == 0, "a single finalist is not repeated"


def test_finalists_and_retraining_are_reserved() -> None:
    # 10 s an epoch of 100 sequences; 4 repetitions of 4 epochs and 4 retrainings of 2, two at once.
    limit = Limit(Budget(time_s=150.0), SPACE, 2, lambda: 20.0)
    assert limit.reserve([record()])["time_s"] == 120
    assert limit.reserve([record()])["core_seconds"] == 240
    assert limit.reached([record()]) is None
    later = Limit(Budget(time_s=150.0), SPACE, 2, lambda: 30.0)
    assert later.reached([record()]) == (
        "time budget of 2 min 30 s: 2 min 00 s of it are reserved for finalists and retraining"
    )


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget(time_s=5), "time budget of 5 s is too small: finalists and retraining alone take"),
        (Budget(time_s=0.036), "time budget of 0.036 s is too small: finalists and retraining al"),
        (Budget(core_seconds=200), "budget of core time of 3 min 20 s is too small: finalists and"),
    ],
)
def test_a_budget_that_cannot_hold_finalists_and_retraining(budget: Budget, message: str) -> None:
    limit = Limit(budget, SPACE, 2, lambda: 0.0)
    found = limit.shortage(limit.paces([record()]))
    assert found is not None
    assert found.startswith(message)
    assert found.endswith("2 min 00 s" if budget.time_s else "4 min 00 s")
    assert limit.reached([record()]) == found


def test_a_budget_that_can_hold_them() -> None:
    limit = Limit(Budget(121, 241, 1), SPACE, 2, lambda: 0.0)
    assert limit.shortage(limit.paces([record()])) is None


def test_a_budget_may_be_used_up_before_the_first_trial() -> None:
    limit = Limit(Budget(time_s=5.0), SPACE, 2, lambda: 6.0)
    assert limit.reached([]) == "time budget of 5 s is used up"


def test_reserve_has_the_pace_of_the_best_trials() -> None:
    """An RMSE of 0.0 is the best there is; failed trials do not count."""
    limit = Limit(Budget(time_s=150.0), SPACE, 2, lambda: 20.0)
    best = [record(0, 20, 0.0), record(1, 20, 0.1)]
    others = [record(2, 200, 0.2), record(3, 200, None), record(4, 200, 0.01)]
    others[2].state = TrialState.FAIL
    assert limit.reserve([*others, *best]) == limit.reserve(best)


def test_budget_of_an_extension_counts_from_its_start() -> None:
    before = Budget(1000.0, 0.0, 0.0)
    limit = Limit(Budget(time_s=150.0), SPACE, 2, lambda: 1020.0, before)
    assert limit.reached([record()]) is None


def test_without_a_budget_there_is_no_limit() -> None:
    assert Limit(Budget(), SPACE, 2, lambda: 1e9).reached([record()]) is None


def goal(**options: object) -> Limit:
    search = SPACE.search.model_copy(update=options)
    return Limit(Budget(), dataclasses.replace(SPACE, search=search), 1, lambda: 0.0)


def ended(number: int, rmse: float, state: TrialState = TrialState.COMPLETE) -> TrialRecord:
    return dataclasses.replace(examples.record(number, 1.0, 1.0, 1.0, rmse), state=state)


def test_a_target_ends_the_search() -> None:
    limit = goal(target=0.5)
    assert limit.reached([]) is None
    assert limit.reached([ended(0, 0.51), ended(1, 0.2, TrialState.PRUNED)]) is None
    assert limit.reached([ended(0, 0.51), ended(1, 0.5)]) == (
        "trial-0001 has a validation RMSE of 0.500; search.target is 0.5"
    )


def test_patience_counts_the_trials_after_the_best_one() -> None:
    limit = goal(patience=3)
    records = [ended(0, 0.9), ended(1, 0.4), ended(2, 0.5), ended(3, 0.3, TrialState.PRUNED)]
    assert limit.reached(records) is None
    assert limit.reached([*records, ended(4, 0.0, TrialState.RUNNING)]) is None
    none_better = "no better validation RMSE at the full budget in {} that started after trial-0001"
    assert limit.reached([*records, ended(4, 0.6)]) == (
        f"{none_better.format('3 trials')}; search.patience is 3"
    )
    assert limit.reached([*records, ended(4, 0.3)]) is None, "a better one"
    several = [ended(4, 0.6, TrialState.PRUNED), ended(5, 0.0, TrialState.FAIL)]
    assert limit.reached([*records, *several]) == (
        f"{none_better.format('4 trials')}; search.patience is 3"
    )
    assert goal(patience=1).reached([*records[:2], ended(2, 0.5)]) == (
        f"{none_better.format('1 trial')}; search.patience is 1"
    )
    assert goal(patience=1).reached(records[:2]) is None, "the other started before"
    assert goal(patience=1).reached([ended(0, 0.4, TrialState.FAIL)]) is None, "none is whole yet"
