from __future__ import annotations

import pytest

from crnn_search.errors import InputError
from crnn_search.spaces.file import parse_space
from crnn_search.storage.trial import Job, JobRecord
from crnn_search.tuning.budget import Budget, Limit, parse_budget

SPACE = """
search: {trials: 5, max_epochs: 4, epoch_sequences: 100}
retrain: {epochs: 2, epoch_sequences: 100, seeds: 2, finalists: 2}
space: {}
"""


@pytest.mark.parametrize(
    ("time", "compute", "expected"),
    [
        (None, None, Budget()),
        ("2h", None, Budget(time_s=7200)),
        ("1h30min", "20gpuh", Budget(time_s=5400, gpu_seconds=72_000)),
        (None, "0.5corehours", Budget(core_seconds=1800)),
    ],
)
def test_budgets_are_read(time: str | None, compute: str | None, expected: Budget) -> None:
    assert parse_budget(time, compute) == expected


@pytest.mark.parametrize("text", ["", "2", "two hours", "0h", "-1h", "2h3"])
def test_a_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--time-budget must be a time above 0, as 2h"):
        parse_budget(text, None)


@pytest.mark.parametrize("text", ["", "20", "0gpuh", "20 bananas"])
def test_an_amount_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--compute-budget must be a number above 0 and gpuh"):
        parse_budget(None, text)


def record() -> JobRecord:
    job = Job("trial-0000", 0, {}, 0, 4, 1, 100, 8)
    return JobRecord(job, values=[1.0, 0.5], losses=[1.0, 1.0], seconds=20, core_seconds=20)


def test_finalists_and_retraining_are_kept_room_for() -> None:
    # 10 s an epoch of 100 sequences; 4 repetitions of 4 epochs and 4 retrainings of 2, two at once.
    limit = Limit(Budget(time_s=150.0), parse_space(SPACE), 2, lambda: 20.0)
    assert limit.reserve([record()])["time_s"] == 120
    assert limit.reserve([record()])["core_seconds"] == 240
    assert limit.reached([record()]) is None
    later = Limit(Budget(time_s=150.0), parse_space(SPACE), 2, lambda: 30.0)
    assert "time budget of 0.0417 h" in (later.reached([record()]) or "")


def test_an_extension_counts_from_its_beginning() -> None:
    before = Budget(1000.0, 0.0, 0.0)
    limit = Limit(Budget(time_s=150.0), parse_space(SPACE), 2, lambda: 1020.0, before)
    assert limit.reached([record()]) is None


def test_without_a_budget_nothing_ends() -> None:
    assert Limit(Budget(), parse_space(SPACE), 2, lambda: 1e9).reached([record()]) is None
