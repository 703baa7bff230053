"""What is recorded of a trial, event by event, without Ray."""

from __future__ import annotations

import dataclasses
import errno
import math
from pathlib import Path
from typing import Any

import pytest
import ray.exceptions
from ray import cloudpickle

from crnn_search.errors import RunError, StorageError
from crnn_search.hyperparameters import Arithmetic
from crnn_search.spaces.file import parse_space
from crnn_search.storage import jsonl, ledger
from crnn_search.storage.journal import read_history
from crnn_search.storage.trial import DIED, OUT_OF_MEMORY, InfeasibleTrial, Trial, TrialState
from crnn_search.tuning.callback import RunCallback
from crnn_search.tuning.context import Context
from tests.tuning.examples import context as new_context
from tests.tuning.examples import metrics, notes, result, trial, tune_trial

GONE = "The actor died unexpectedly before finishing this task."


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return new_context(tmp_path)


def start(callback: RunCallback, own: Trial, trial_id: str = "tune-0", gpus: float = 0.0) -> Any:
    """A trial of Tune's that has its actor."""
    in_tune = tune_trial(own, trial_id, gpus)
    if own.name not in callback.records:
        callback.on_trial_created(own)
    callback.on_step_begin(0, [in_tune])
    callback.on_trial_start(0, [in_tune], in_tune)
    return in_tune


def report(callback: RunCallback, in_tune: Any, item: dict[str, Any]) -> None:
    """A result of a trial, as Tune handles it."""
    callback.on_trial_result(0, [in_tune], in_tune, item)
    in_tune.last_result = item


def die(callback: RunCallback, in_tune: Any, folder: Path, error: Exception) -> Trial | None:
    """The death of a trial's process; the trial that is run in its place."""
    in_tune.error_file = in_tune.pickled_error_file = str(folder / f"{in_tune.trial_id}.pkl")
    Path(in_tune.error_file).write_bytes(cloudpickle.dumps(error))
    again = callback.retry(in_tune.trial_id)
    callback.on_trial_error(0, [in_tune], in_tune)
    return again


def events(context: Context, *kinds: str) -> list[dict[str, Any]]:
    lines = jsonl.read(context.run.journal)
    return [line for line in lines if not kinds or line["event"] in kinds]


def test_trial_is_recorded_from_its_creation_to_its_end(context: Context) -> None:
    callback = RunCallback("search", context)
    in_tune = start(callback, trial())
    saved = {"checkpoint": "trial-0000/epoch-0001.safetensors", "node": "host-7"}
    report(callback, in_tune, result(1, 3.0, **saved))
    report(callback, in_tune, result(2, 2.0))
    callback.on_trial_complete(0, [in_tune], in_tune)
    (created, first, _, end) = events(context)
    assert (end["event"], end["state"]) == ("ended", "PRUNED")
    assert (created["event"], created["stage"], created["trial"]["name"]) == (
        "trial",
        "search",
        "trial-0000",
    )
    first.pop("elapsed_s")
    assert first == {
        "event": "epoch",
        "name": "trial-0000",
        "epoch": 1,
        "validation_rmse": 3.0,
        "train_loss": 1.0,
        "failure": None,
        "checkpoint": "checkpoints/trial-0000/epoch-0001.safetensors",
        "seconds": 2.0,
        "cpus": 2.0,
        "gpus": 0.0,
        "node": "host-7",
        "device": "cpu",
        "arithmetic": "float32",
    }
    (ended,) = ledger.read(context.run.ledger).trials
    assert ended == callback.records["trial-0000"]
    assert (ended.state, ended.validation_rmse) == (TrialState.PRUNED, [3.0, 2.0])
    assert (ended.seconds, ended.core_seconds) == (4.0, 8.0)


def test_nan_is_recorded_as_null_with_its_reason(context: Context) -> None:
    callback = RunCallback("search", context)
    in_tune = start(callback, trial())
    diverged = result(1, metrics=metrics(1, math.nan, math.inf), failure="diverged", done=True)
    report(callback, in_tune, diverged)
    callback.on_trial_complete(0, [in_tune], in_tune)
    (epoch,) = events(context, "epoch")
    assert (epoch["validation_rmse"], epoch["train_loss"]) == (None, None)
    (ended,) = ledger.read(context.run.ledger).trials
    assert (ended.state, ended.reason) == (TrialState.FAIL, "diverged")


def test_infeasible_trial_is_in_the_ledger_only(context: Context) -> None:
    callback = RunCallback("search", context)
    infeasible = InfeasibleTrial(3, {"kernel_size": 9}, "no pixels")
    callback.on_trial_infeasible(infeasible)
    assert not callback.records
    assert ledger.read(context.run.ledger).infeasible == [infeasible]


def test_trial_without_validation_completes(context: Context) -> None:
    callback = RunCallback("retrain", context)
    in_tune = start(callback, trial(all_images=True, epochs=1))
    report(callback, in_tune, result(1, metrics=metrics(1, None), done=True))
    callback.on_trial_complete(0, [in_tune], in_tune)
    (ended,) = events(context, "ended")
    assert ended["state"] == TrialState.COMPLETE
    assert "validation_rmse" not in events(context, "epoch")[0]


def test_repeated_epoch_counts_as_spent_and_restored_one_does_not(context: Context) -> None:
    callback = RunCallback("search", context)
    in_tune = start(callback, trial())
    report(callback, in_tune, result(1, 3.0))
    report(callback, in_tune, result(1, 3.0, restored=True))
    assert not events(context, "spent")
    report(callback, in_tune, result(1, 3.0))
    assert len(events(context, "spent")) == 1
    assert notes(context) == [
        "trial-0000: its checkpoint is gone; it is trained again from the start"
    ]
    record = callback.records["trial-0000"]
    assert (record.epochs, record.seconds) == (1, 4.0)


def test_dead_process_is_replaced_three_times(tmp_path: Path, context: Context) -> None:
    callback = RunCallback("search", context)
    for attempt in range(4):
        in_tune = start(callback, trial(), f"tune-{attempt}")
        again = die(callback, in_tune, tmp_path, ray.exceptions.ActorDiedError())
        assert again == (trial() if attempt < 3 else None)
    assert callback.records["trial-0000"].retries == [DIED] * 3
    assert [e["cause"] for e in events(context, "retry")] == [DIED] * 3
    (ended,) = ledger.read(context.run.ledger).trials
    assert (ended.state, ended.reason) == (TrialState.FAIL, f"process died: {GONE}")
    assert notes(context)[0] == (
        f"trial-0000: process died: {GONE}; it continues from its last checkpoint"
    )


def test_lack_of_memory_is_retried_once_on_twice_the_share(context: Context) -> None:
    callback = RunCallback("search", context)
    for attempt, gpus in enumerate((0.25, 0.5)):
        in_tune = start(callback, trial(), f"tune-{attempt}", gpus)
        report(callback, in_tune, result(0, out_of_memory="MemoryError: full", done=True))
        again = callback.retry(in_tune.trial_id)
        assert (again and again.gpus) == (0.5 if attempt == 0 else None)
        callback.on_trial_complete(0, [in_tune], in_tune)
    (ended,) = ledger.read(context.run.ledger).trials
    assert (ended.state, ended.reason) == (TrialState.FAIL, "out of memory: MemoryError: full")
    assert ended.retries == [OUT_OF_MEMORY]
    assert len(events(context, "spent")) == 2


def test_other_arithmetic_than_the_runs_is_recorded_and_noted_once(tmp_path: Path) -> None:
    arithmetic = Arithmetic("float32", cpu_kernels=True)
    context = new_context(tmp_path, arithmetic)
    callback = RunCallback("search", context)
    in_tune = start(callback, trial(arithmetic=arithmetic))
    report(callback, in_tune, result(1, 3.0, arithmetic=str(arithmetic)))
    assert notes(context) == []
    report(callback, in_tune, result(2, 2.0, node="late"))
    report(callback, in_tune, result(3, 1.0, node="late"))
    assert notes(context) == [
        "trial-0000: late computes in float32, not in float32, compiled kernels as this run"
    ]
    history = read_history(context.run.journal, context.run.ledger)
    known = history.records("search")["trial-0000"]
    assert known.arithmetics == ["float32, compiled kernels", "float32"]
    assert [e["arithmetic"] for e in events(context, "epoch")] == [*known.arithmetics, "float32"]


def test_checkpoint_that_cannot_be_written_ends_the_stage(context: Context) -> None:
    callback = RunCallback("search", context)
    in_tune = start(callback, trial())
    report(callback, in_tune, result(0, storage_error="cannot write x", done=True))
    assert not callback.may_start()
    assert callback.retry(in_tune.trial_id) is None
    with pytest.raises(RunError, match="cannot write x"):
        callback.on_step_end(0, [in_tune])


def test_journal_that_cannot_be_written_ends_the_stage(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    callback = RunCallback("search", context)
    in_tune = start(callback, trial())

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(jsonl, "append", full)
    report(callback, in_tune, result(1, 3.0))  # Tune must not see an error here
    callback.on_trial_complete(0, [in_tune], in_tune)
    assert not callback.records["trial-0000"].ended
    with pytest.raises(StorageError, match=r"cannot write .*journal\.jsonl: No space left"):
        callback.on_step_end(0, [in_tune])
    assert [line["event"] for line in events(context)] == ["trial"]


def test_only_the_last_and_the_best_checkpoint_of_an_ended_trial_are_kept(
    context: Context,
) -> None:
    callback = RunCallback("search", context)
    in_tune = start(callback, trial())
    folder = context.run.checkpoints / "trial-0000"
    folder.mkdir(parents=True)
    for epoch, value in enumerate((3.0, 1.0, 2.5, 2.0), start=1):
        report(callback, in_tune, result(epoch, value))
        (folder / f"epoch-{epoch:04d}.safetensors").touch()
    callback.on_trial_complete(0, [in_tune], in_tune)
    assert sorted(path.name for path in folder.iterdir()) == [
        "epoch-0002.safetensors",
        "epoch-0004.safetensors",
    ]


def test_the_log_says_what_happened_to_each_trial(
    context: Context, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    space = parse_space("space: {conv_channels: {list_of: {int: [4, 8]}, length: 1}}")
    context = dataclasses.replace(context, space=space)
    callback = RunCallback("search", context)
    with caplog.at_level("INFO", "crnn_search"):
        first = start(callback, trial(0))
        report(callback, first, result(1, 4.0))
        callback.on_trial_complete(1, [first], first)
        second = start(callback, trial(1), "tune-1")
        die(callback, second, tmp_path, ray.exceptions.ActorDiedError())
        third = start(callback, callback.records["trial-0001"].trial, "tune-2")
        report(callback, third, result(0, failure="ValueError: a fault", done=True))
        callback.on_trial_complete(1, [third], third)
        callback.on_trial_infeasible(InfeasibleTrial(2, {}, "no pixels are left"))
    assert caplog.messages == [
        "trial-0000: created, conv_channels 4",
        "trial-0000: runs",
        "trial-0000: epoch 1 of 4, validation RMSE 4.000, train RMSE 1.000, 2 s on here",
        "trial-0000: stopped early after epoch 1",
        "trial-0001: created, conv_channels 4",
        "trial-0001: runs",
        "trial-0001: runs",
        "trial-0001: failed after epoch 0: ValueError: a fault",
        "trial-0002: infeasible, no pixels are left",
    ]
    assert context.records["search"] is callback.records
    assert "trial-0001: " in notes(context)[0]
