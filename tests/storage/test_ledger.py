from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crnn_search.errors import InputError
from crnn_search.storage import jsonl, ledger
from crnn_search.storage.ledger import Ledger
from crnn_search.storage.trial import InfeasibleTrial, TrialRecord, TrialState
from tests.storage import examples
from tests.storage.examples import new_record

FAIL, PRUNED = TrialState.FAIL, TrialState.PRUNED
INFEASIBLE = InfeasibleTrial(6, {"pooling": 4}, "no pixels")


@given(
    lines=st.lists(
        examples.records | examples.infeasible_trials,
        max_size=5,
        unique_by=lambda line: number_of(line),
    )
)
def test_a_ledger_is_read_as_written(
    lines: list[TrialRecord | InfeasibleTrial], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "trials.jsonl"
    path.touch()
    for line in lines:
        jsonl.append(path, line.to_dict())
    found = ledger.read(path)
    by_number = sorted(lines, key=lambda line: number_of(line))
    assert found.trials == [line for line in by_number if isinstance(line, TrialRecord)]
    assert found.infeasible == [line for line in by_number if isinstance(line, InfeasibleTrial)]


def number_of(line: TrialRecord | InfeasibleTrial) -> int:
    return line.trial.number if isinstance(line, TrialRecord) else line.number


def test_outcomes_count_states_and_reasons() -> None:
    trials = [
        new_record(0),
        new_record(1, PRUNED),
        new_record(2, FAIL),
        new_record(3, FAIL, reason="diverged"),
        new_record(4, FAIL, reason="diverged"),
        new_record(5, PRUNED),
        new_record(6, PRUNED, reason="time budget of 2 h 00 min is used up"),
    ]
    assert ledger.outcomes(Ledger(trials, [INFEASIBLE])) == {
        "completed": 1,
        "stopped": 2,
        "cut": 1,
        "failed": 3,
        "infeasible": 1,
        "failures": [
            {"reason": "diverged", "count": 2, "numbers": [3, 4]},
            {"reason": "no reason recorded", "count": 1, "numbers": [2]},
        ],
    }


def test_spent_is_summed_by_outcome() -> None:
    trials = [new_record(0), new_record(1), new_record(2, PRUNED, 1), new_record(3, FAIL, 2)]
    assert ledger.spent(trials, "core_seconds") == {
        "completed": 80.0, "stopped": 10.0, "failed": 20.0,
    }  # fmt: skip
    assert ledger.spent(trials, "gpu_seconds")["completed"] == 20.0


def test_saved_share_counts_epochs_that_were_not_trained() -> None:
    trials = [new_record(0), new_record(1, PRUNED, 1), new_record(2, PRUNED, 2)]
    failed = new_record(3, FAIL, 1)
    cut = new_record(4, PRUNED, 1, reason="time budget of 2 h 00 min is used up")
    assert ledger.saved_share([*trials, failed, cut], 4) == pytest.approx(1 - 7 / 12)
    assert ledger.saved_share([failed, cut], 4) is None


def test_trials_are_ranked_by_state_epochs_and_rmse() -> None:
    trials = [
        new_record(0, FAIL),
        new_record(1, PRUNED, 2, validation_rmse=[0.5, 0.1]),
        new_record(2, validation_rmse=[4.0, 3.0, 2.0, 1.0]),
        new_record(3, validation_rmse=[4.0, 3.0, 2.0, 0.0]),
        new_record(4, validation_rmse=[4.0, 3.0, 2.0, 1.0]),
        new_record(5, validation_rmse=[4.0, 3.0, 2.0, None]),
        new_record(6, TrialState.RUNNING, 3, failure="diverged"),
        new_record(7, PRUNED, 0),
    ]
    assert [record.trial.number for record in ledger.ranked(trials)] == [3, 2, 4, 1]


def altered(**change: Any) -> str:
    return json.dumps(new_record(1).to_dict() | change)


def without(key: str) -> str:
    line = new_record(1).to_dict()
    del line[key]
    return json.dumps(line)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (without("state"), "of this version of crnn-search: it has no 'state'"),
        (without("validation_rmse"), "it has no 'validation_rmse'"),
        (without("config"), "it has no 'config'"),
        (without("seed"), "missing 1 required positional argument: 'seed'"),
        (altered(number="one"), "number must be of type int, got 'one'"),
        (altered(number=-1), "number must be from 0 to .*, got -1"),
        (altered(name="trial-0002"), "name must be trial-0001, got trial-0002"),
        (altered(seconds=1e13), "seconds must be from 0 to .*, got"),
        (altered(state="RUNNING"), "trial-0001 cannot have ended as RUNNING after 4 of 4"),
        (altered(train_loss=[1.0]), "must have at most 4 epochs, each with a train_loss and all"),
        (altered(validation_rmse=[1, 2, 3, None]), "ended as COMPLETE .* validation_rmse None"),
        (altered(checkpoint="../../x"), "checkpoint must be a file of a trial's checkpoints"),
        (altered(seconds="long"), "seconds must be of type float, got 'long'"),
        (altered(state="DONE"), "'DONE' is not a valid TrialState"),
        (altered(state=[]), r"state must be of type TrialState, got \[\]"),
        (altered(config=[]), "is not a trial of this version"),
        (altered(config={"layers": 2}), "unknown name 'layers'"),
        (altered(value=1.5), "unexpected keyword argument 'value'"),
        ('{"state": "INFEASIBLE", "number": 1, "config": {}}', "it has no 'reason'"),
        (
            '{"state": "INFEASIBLE", "number": 1, "config": {"layers": 2}, "reason": ""}',
            "config has the unknown name 'layers'",
        ),
        ('{"state": "INFEASIBLE", "number": "1", "config": {}, "reason": ""}', "number must be"),
        ("[1]", r"must be a JSON object, got \[1\]"),
        ("{broken", "is not valid JSON"),
    ],
)
def test_an_altered_line_is_an_error_that_names_it(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "trials.jsonl"
    path.write_text("\n".join([json.dumps(new_record(0).to_dict()), line, ""]))
    with pytest.raises(InputError, match=rf"line 2 of {path} .*{message}"):
        ledger.read(path)


def test_a_trial_that_is_listed_twice_is_an_error_that_names_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    for number in (0, 1, 0):
        jsonl.append(path, new_record(number).to_dict())
    message = rf"lines 1 and 3 of {path} are of the same trial, trial-0000; remove one"
    with pytest.raises(InputError, match=message):
        ledger.read(path)
