"""When a trial has failed, and what a search makes of the trials it has."""

from __future__ import annotations

import math

import pytest

from crnn_search.data.sequences import Digits
from crnn_search.errors import RunError
from crnn_search.pipeline.finalists import finalists
from crnn_search.storage.trial import Job, JobRecord
from crnn_search.training.metrics import EpochMetrics
from crnn_search.tuning.trainable import failure_reason
from tests.conftest import small_table


def metrics(epoch: int, rmse: float | None, loss: float = 1.0) -> EpochMetrics:
    return EpochMetrics(epoch, loss, rmse, 0.0, 1.0, 0.1, 1.0, 1.0)


@pytest.mark.parametrize(
    ("epoch", "rmse", "loss", "reason"),
    [
        (1, 5.0, 1.0, None),
        (9, 5.0, 1.0, None),
        (1, math.nan, 1.0, "diverged: validation RMSE nan in epoch 1"),
        (1, math.inf, 1.0, "diverged: validation RMSE inf in epoch 1"),
        (1, 5.0, math.nan, "diverged: training loss nan in epoch 1"),
        (2, 100.0, 1.0, None),
        (3, 100.0, 1.0, "twice that of guessing the mean"),
    ],
)
def test_divergence_ends_a_trial_with_a_reason(
    epoch: int, rmse: float, loss: float, reason: str | None, digits: Digits
) -> None:
    found = failure_reason(metrics(epoch, rmse, loss), small_table(digits, 500), grace_epochs=2)
    assert (found is None) == (reason is None)
    if reason is not None:
        assert found is not None
        assert reason in found


def test_without_validation_only_the_loss_counts() -> None:
    assert failure_reason(metrics(5, None), None, grace_epochs=1) is None
    found = failure_reason(metrics(5, None, math.inf), None, grace_epochs=1)
    assert found == "diverged: training loss inf in epoch 5"


def record(number: int, state: str, *values: float | None) -> JobRecord:
    job = Job(f"trial-{number}", number, {}, 0, 3, 1, 10, 8)
    return JobRecord(job, values=list(values), state=state, reason=f"why {number}")


def test_full_budget_trials_come_first() -> None:
    records = [
        record(0, "PRUNED", 0.1),
        record(1, "COMPLETE", 9.0, 5.0, 3.0),
        record(2, "COMPLETE", 9.0, 5.0, 2.0),
        record(3, "FAIL", 0.1, None),
    ]
    assert [r.job.number for r in finalists(records, 3)] == [2, 1]
    assert [r.job.number for r in finalists(records, 1)] == [2]


def test_without_a_full_budget_trial_the_longest_lived_is_taken() -> None:
    records = [record(0, "PRUNED", 1.0), record(1, "PRUNED", 9.0, 4.0), record(2, "FAIL")]
    assert [r.job.number for r in finalists(records, 3)] == [1]


def test_a_search_without_a_result_says_why() -> None:
    with pytest.raises(RunError, match=r"no trial lived to give a result:\n  why 0\n  why 1"):
        finalists([record(0, "FAIL"), record(1, "FAIL", None)], 3)
