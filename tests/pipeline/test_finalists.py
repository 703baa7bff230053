"""Which trials become finalists, and which of them wins."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from crnn_search.errors import RunError
from crnn_search.hyperparameters import MNIST_CRNN_2016, Arithmetic
from crnn_search.pipeline import finalists
from crnn_search.spaces.file import parse_space
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import Trial, TrialRecord, TrialState
from crnn_search.tuning.context import Context

COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
BFLOAT16 = Arithmetic("bfloat16")


def record(number: int, state: TrialState, *values: float | None) -> TrialRecord:
    trial = Trial(f"trial-{number:04d}", number, MNIST_CRNN_2016, 0, 3, 1, 10, "mnist_sums/8")
    return TrialRecord(
        trial,
        validation_rmse=list(values),
        train_loss=[1.0] * len(values),
        state=state,
        reason=f"reason {number}" if state == FAIL else None,
    )


def numbers(records: Sequence[TrialRecord]) -> list[int]:
    return [record.trial.number for record in records]


def test_finalists_are_the_best_full_budget_trials() -> None:
    records = [
        record(0, PRUNED, 0.1),
        record(1, COMPLETE, 5.0, 4.0, 2.0),
        record(2, COMPLETE, 5.0, 4.0, 0.0),
        record(3, FAIL, 1.0, 1.0, None),
        record(4, COMPLETE, 1.0, 1.0, 3.0),
    ]
    assert numbers(finalists.select(records, 2)) == [2, 1]
    assert numbers(finalists.select(records, 9)) == [2, 1, 4]


def test_without_a_full_budget_trial_the_longest_trained_is_taken() -> None:
    records = [record(0, PRUNED, 1.0), record(1, PRUNED, 9.0, 4.0), record(2, FAIL)]
    assert numbers(finalists.select(records, 3)) == [1]


def test_search_without_a_result_lists_the_reasons() -> None:
    records = [record(0, FAIL), record(1, FAIL, None)]
    message = r"^no trial has a validation RMSE:\n  reason 0\n  reason 1$"
    with pytest.raises(RunError, match=message):
        finalists.select(records, 3)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """A run whose finalists are repeated with two seeds; it has no digits and no cluster."""
    space = parse_space("retrain: {seeds: 2}\nspace: {}")
    missing: Any = None
    return Context(
        run=RunFolder(tmp_path),
        space=space,
        history=missing,
        journal=missing,
        task=missing,
        allocation=missing,
        arithmetic=BFLOAT16,
        progress=missing,
    )


def repeat(
    monkeypatch: pytest.MonkeyPatch, *repeated: Sequence[float | None]
) -> list[Sequence[Trial]]:
    """Let the repetitions of each finalist end with these values; None is a failure."""
    stages: list[Sequence[Trial]] = []

    def run_stage(_: Context, stage: str, title: str, trials: Sequence[Trial]) -> list[TrialRecord]:
        assert stage == title == "finalists"
        stages.append(trials)
        values = [value for of_one in repeated for value in of_one]
        return [
            dataclasses.replace(record(i, FAIL if v is None else COMPLETE, v), trial=trial)
            for i, (trial, v) in enumerate(zip(trials, values, strict=True))
        ]

    monkeypatch.setattr(finalists, "run_stage", run_stage)
    return stages


def rows(context: Context) -> list[dict[str, Any]]:
    content = json.loads(context.run.finalists.read_text())
    assert content.keys() == {"finalists", "repeats"}
    found: list[dict[str, Any]] = content["finalists"]
    return found


def test_lowest_mean_of_the_repetitions_wins(
    monkeypatch: pytest.MonkeyPatch, context: Context
) -> None:
    found = [record(4, COMPLETE, 0.5), record(6, COMPLETE, 0.6)]
    stages = repeat(monkeypatch, [0.75, 1.25], [0.0, 1.0])
    winner = finalists.choose(found, context)
    config = MNIST_CRNN_2016.to_dict()
    assert winner == {"number": 6, "config": config, "validation_rmse": 0.5}
    assert json.loads(context.run.best.read_text()) == winner
    trials = [(trial.name, trial.number) for trial in stages[0]]
    assert trials == [
        ("trial-0004-seed-0", 0),
        ("trial-0004-seed-1", 1),
        ("trial-0006-seed-0", 2),
        ("trial-0006-seed-1", 3),
    ]
    seeds = [trial.seed for trial in stages[0]]
    assert seeds[:2] == seeds[2:], "both finalists get the same seeds"
    assert {trial.arithmetic for trial in stages[0]} == {BFLOAT16}
    assert rows(context)[0] == {
        "number": 6,
        "config": config,
        "search_validation_rmse": 0.6,
        "seeds": seeds[2:],
        "validation_rmse_by_seed": [0.0, 1.0],
        "validation_rmse": 0.5,
        "failure": None,
        "arithmetics": [],
        "core_seconds": 0.0,
        "gpu_seconds": 0.0,
    }


def test_finalist_loses_if_a_repetition_fails(
    monkeypatch: pytest.MonkeyPatch, context: Context
) -> None:
    repeat(monkeypatch, [0.1, None], [5.0, 6.0])
    found = [record(4, COMPLETE, 0.5), record(6, COMPLETE, 0.6)]
    assert finalists.choose(found, context)["number"] == 6
    last = rows(context)[-1]
    assert last["validation_rmse"] is None
    assert last["validation_rmse_by_seed"] == [0.1, None]
    assert last["failure"] == "reason 1"


def test_run_fails_if_every_finalist_fails(
    monkeypatch: pytest.MonkeyPatch, context: Context
) -> None:
    repeat(monkeypatch, [0.1, None], [None, 6.0])
    found = [record(4, COMPLETE, 0.5), record(6, COMPLETE, 0.6)]
    with pytest.raises(RunError, match=r"^no finalist trains reliably: reason 1$"):
        finalists.choose(found, context)
    assert not context.run.best.exists()


def test_single_finalist_is_not_repeated(monkeypatch: pytest.MonkeyPatch, context: Context) -> None:
    stages = repeat(monkeypatch)
    winner = finalists.choose([record(4, PRUNED, 0.5)], context)
    assert (winner["number"], winner["validation_rmse"]) == (4, 0.5)
    assert not stages
    assert rows(context)[0]["validation_rmse_by_seed"] == []
