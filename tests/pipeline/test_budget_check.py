"""What a budget is too small for, said before a search starts."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any, cast

import pytest

from crnn_search.cluster.resources import Allocation
from crnn_search.errors import InputError
from crnn_search.pipeline import budget_check
from crnn_search.storage.trial import TrialRecord
from crnn_search.tuning.budget import Budget, Limit
from crnn_search.tuning.context import Context
from tests.tuning import examples
from tests.tuning.test_budget import SPACE


def notes_of(budget: Budget, elapsed_s: float = 1.0, *records: TrialRecord) -> list[str]:
    """What is said of a budget where two trials run at once, on a core each."""
    notes: list[str] = []
    context = SimpleNamespace(
        space=SPACE,
        task=None,
        arithmetic=None,
        allocation=Allocation(1.0, 0.0, 2),
        history=SimpleNamespace(records=lambda stage: dict(enumerate(records))),
        progress=SimpleNamespace(doing=print, note=notes.append),
    )
    limit = Limit(budget, SPACE, 2, lambda: elapsed_s)
    budget_check.check_budget(limit, cast(Context, context))
    return notes


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of a second for a sequence: 120 s for finalists and retraining, two at once."""
    monkeypatch.setattr(budget_check, "measure_pace", lambda *_: 0.1)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (Budget(time_s=110), "time budget of 1 min 50 s is too small: finalists and retraining"),
        (Budget(core_seconds=230), "budget of core time of 3 min 50 s is too small: finalists"),
        (Budget(gpu_seconds=60), "the budget of GPU time limits nothing: trials run on CPUs"),
    ],
)
def test_a_budget_that_will_be_exceeded_is_said_so(budget: Budget, expected: str) -> None:
    (note,) = notes_of(budget)
    assert note.startswith(expected)


@pytest.mark.parametrize("budget", [Budget(), Budget(time_s=130), Budget(core_seconds=250)])
def test_nothing_is_said_of_one_that_is_large_enough(budget: Budget) -> None:
    assert notes_of(budget) == []


def test_nothing_is_said_without_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_check, "measure_pace", lambda *_: None)
    assert notes_of(Budget(time_s=10)) == []


def test_an_earlier_session_tells_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    unused: Any = None
    monkeypatch.setattr(budget_check, "measure_pace", unused)
    trained = dataclasses.replace(examples.record(0, 1.0, 0.5), seconds=40.0)
    (note,) = notes_of(Budget(time_s=230), 1.0, trained)
    assert note.endswith("retraining alone take about 4 min 00 s: the run will exceed it")


def test_a_budget_that_no_trial_fits_in_is_refused() -> None:
    with pytest.raises(InputError, match="time budget of 5 s is used up before the first trial"):
        notes_of(Budget(time_s=5), 6.0)
