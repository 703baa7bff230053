from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given

from crnn_search.errors import ConfigError
from crnn_search.hyperparameters import Arithmetic
from crnn_search.storage.trial import (
    DIED,
    METRIC,
    InfeasibleTrial,
    Trial,
    TrialRecord,
    TrialState,
    finite,
)
from tests.storage import examples
from tests.storage.examples import USAGE, epoch_event, new_record, new_trial


@given(trial=examples.trials)
def test_a_trial_is_unchanged_by_json(trial: Trial) -> None:
    assert Trial.from_dict(json.loads(json.dumps(trial.to_dict()))) == trial


@given(record=examples.records)
def test_a_record_is_unchanged_by_json(record: TrialRecord) -> None:
    assert TrialRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record


@given(trial=examples.infeasible_trials)
def test_an_infeasible_trial_is_unchanged_by_json(trial: InfeasibleTrial) -> None:
    line = json.loads(json.dumps(trial.to_dict()))
    assert line["state"] == TrialState.INFEASIBLE
    assert InfeasibleTrial.from_dict(line) == trial


def test_a_ledger_line_is_flat() -> None:
    line = new_record(3, seconds=1.23456).to_dict()
    assert {"number", "config", "state", METRIC, "train_loss", "arithmetics"} < line.keys()
    assert line["number"] == 3
    assert line["seconds"] == 1.235
    assert "trial" not in line


def test_number_and_gpu_share_do_not_change_a_training() -> None:
    trial = new_trial(gpus=0.5)
    assert trial.same_training(dataclasses.replace(trial, number=3, gpus=1.0))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 8},
        {"epochs": 5},
        {"epoch_sequences": 255},
        {"data": 9},
        {"all_images": True},
        {"arithmetic": Arithmetic("bfloat16")},
    ],
)
def test_every_other_field_changes_a_training(change: dict[str, Any]) -> None:
    trial = new_trial()
    assert not trial.same_training(dataclasses.replace(trial, **change))


def test_an_epoch_updates_the_record() -> None:
    record = TrialRecord(new_trial())
    record.apply(epoch_event("trial-0000", 1, checkpoint="checkpoints/trial-0000/1"))
    record.apply(
        epoch_event(
            "trial-0000", 2, train_loss=None, failure="diverged", checkpoint=None, node="other",
            arithmetic="bfloat16", **{METRIC: None},
        )
    )  # fmt: skip
    assert record == TrialRecord(
        new_trial(),
        validation_rmse=[2.0, None],
        train_loss=[1.0, None],
        seconds=4.0,
        core_seconds=8.0,
        gpu_seconds=1.0,
        node="other",
        device="cpu",
        arithmetics=["float32", "bfloat16"],
        checkpoint="checkpoints/trial-0000/1",
        failure="diverged",
    )
    assert (record.epochs, record.saved_epochs, record.last_rmse) == (2, 1, None)
    assert not record.ended


def test_an_epoch_without_validation_has_no_rmse() -> None:
    record = TrialRecord(new_trial(all_images=True))
    event = epoch_event("trial-0000", 1)
    del event[METRIC]
    record.apply(event)
    assert (record.epochs, record.validation_rmse, record.last_rmse) == (1, [], None)


def test_spent_time_counts_without_an_epoch() -> None:
    record = TrialRecord(new_trial())
    record.apply({"event": "spent", "name": "trial-0000", **USAGE})
    assert (record.epochs, record.seconds, record.core_seconds, record.gpu_seconds) == (
        0,
        2,
        4,
        0.5,
    )


def test_a_retry_replaces_the_trial() -> None:
    record, larger = TrialRecord(new_trial()), new_trial(gpus=0.5)
    record.apply({"event": "retry", "cause": DIED, "reason": "killed", "trial": larger.to_dict()})
    assert record.trial == larger
    assert record.retries == [DIED]
    assert not record.ended


def test_the_end_has_a_state_and_a_reason() -> None:
    record = TrialRecord(new_trial())
    record.apply({"event": "ended", "state": "PRUNED", "reason": "rung 1"})
    assert record.ended
    assert (record.state, record.reason) == (TrialState.PRUNED, "rung 1")


def test_final_rmse_is_the_last_one() -> None:
    assert new_record(epochs=2).final_rmse == new_record(epochs=2).last_rmse == 2.0


@pytest.mark.parametrize("values", [[], [1.0, None]])
def test_a_record_without_a_finite_last_rmse_has_no_final_one(values: list[float | None]) -> None:
    with pytest.raises(ValueError, match="trial-0000 has no finite last validation RMSE"):
        _ = new_record(validation_rmse=values).final_rmse


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"number": "0"}, "number must be of type int, got '0'"),
        ({"number": True}, "number must be of type int, got True"),
        ({"all_images": 1}, "all_images must be of type bool, got 1"),
        ({"gpus": "half"}, r"gpus must be of type float \| None, got 'half'"),
        ({"surprise": 1}, "unexpected keyword argument 'surprise'"),
        ({"arithmetic": {"dtype": "float32"}}, "unexpected keyword argument 'dtype'"),
        ({METRIC: [1.0, "x"]}, r"validation_rmse must be of type list\[float \| None\], got"),
        ({"seconds": None}, "seconds must be of type float, got None"),
        ({"retries": "none"}, r"retries must be of type list\[str\], got 'none'"),
    ],
)
def test_a_record_of_other_types_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        TrialRecord.from_dict(new_record().to_dict() | change)


def test_a_record_with_another_state_is_refused() -> None:
    with pytest.raises(ValueError, match="'DONE' is not a valid TrialState"):
        TrialRecord.from_dict(new_record().to_dict() | {"state": "DONE"})


@pytest.mark.parametrize("key", sorted(new_record().to_dict().keys() - {"all_images", "gpus"}))
def test_a_record_that_lacks_a_key_is_refused(key: str) -> None:
    line = new_record().to_dict()
    del line[key]
    with pytest.raises((KeyError, TypeError), match=key):
        TrialRecord.from_dict(line)


def test_a_record_with_a_bad_hyperparameter_is_refused() -> None:
    line = new_record().to_dict()
    with pytest.raises(ConfigError, match=r"dropout must be a number from 0 to 0\.95, got 2"):
        TrialRecord.from_dict(line | {"config": {"dropout": 2}})


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.5, 1.5), (0.0, 0.0), (None, None), (math.nan, None), (math.inf, None)],
)
def test_finite(value: float | None, expected: float | None) -> None:
    assert finite(value) == expected
