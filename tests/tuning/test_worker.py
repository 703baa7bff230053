"""How a process trains trials: results, failures, restarts, arithmetic."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch

from crnn_search.data.digits import Digits
from crnn_search.errors import StorageError
from crnn_search.hyperparameters import Arithmetic
from crnn_search.kernels import native
from crnn_search.storage.trial import METRIC, Trial
from crnn_search.training import engine
from crnn_search.training.engine import TrainingData, TrainState
from crnn_search.training.metrics import EpochMetrics
from crnn_search.tuning import epoch_parts
from crnn_search.tuning.epoch_result import EpochResult, last_result
from crnn_search.tuning.worker import Worker, failure_reason
from tests.conftest import small_table
from tests.tasks import FewDigits
from tests.tuning.examples import TRIAL, metrics, result, step

CPU = torch.device("cpu")


@pytest.fixture
def worker(tmp_path: Path, digits: Digits) -> Worker:
    """A new process that trains trials of a run; it validates on few sequences."""
    return Worker(FewDigits(digits), str(tmp_path), CPU)


def other(worker: Worker) -> Worker:
    """A process on another node that trains trials of the same run."""
    return Worker(worker._task, worker._checkpoints, CPU)


def trained(worker: Worker, trial: Trial) -> list[EpochResult]:
    """All results of a trial."""
    worker.take(trial)
    results = [worker.step()]
    while not results[-1].done:
        results.append(worker.step())
    return results


def without_times(result: EpochResult) -> EpochResult:
    """What is the same each time an epoch is trained."""
    assert result.metrics is not None
    same = dataclasses.replace(result.metrics, seconds=0, sequences_per_s=0, peak_memory_mb=0)
    return dataclasses.replace(result, metrics=same, seconds=0)


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
    assert (reason or "") in (found or "")


def test_without_validation_only_the_loss_counts() -> None:
    assert failure_reason(metrics(5, None), None, grace_epochs=1) is None
    found = failure_reason(metrics(5, None, math.inf), None, grace_epochs=1)
    assert found == "diverged: training loss inf in epoch 5"


def test_trial_trains_to_its_full_budget(worker: Worker) -> None:
    results = trained(worker, TRIAL)
    assert [r.epoch for r in results] == [1, 2, 3, 4]
    assert [r.done for r in results] == [False, False, False, True]
    assert results[0].checkpoint == "trial-0000/epoch-0001.safetensors"
    assert (results[0].device, results[0].arithmetic) == ("cpu", "float32")
    assert all(r.validation_rmse and not r.failed and not r.restored for r in results)


def test_trial_without_validation_has_no_validation_rmse(worker: Worker) -> None:
    worker.take(dataclasses.replace(TRIAL, all_images=True))
    first = worker.step()
    assert first.metrics is not None
    assert first.validation_rmse is None
    assert math.isnan(first.to_dict()[METRIC])


def test_worker_on_another_node_continues_exactly(worker: Worker) -> None:
    whole = trained(worker, dataclasses.replace(TRIAL, name="whole"))
    worker.take(TRIAL)
    first = [worker.step(), worker.step()]
    moved = other(worker)
    rest = trained(moved, TRIAL)
    assert rest[0] == dataclasses.replace(first[1], restored=True)
    for ours, expected in zip([*first, *rest[1:]], whole, strict=True):
        assert without_times(ours).metrics == without_times(expected).metrics


@pytest.mark.parametrize("flags", [set(), {"avx512_bf16"}], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_trial_that_moves_keeps_its_arithmetic(
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
    precision: Literal["float32", "bfloat16"],
    flags: set[str],
) -> None:
    """Whatever the other node computes in natively."""
    trial = dataclasses.replace(TRIAL, arithmetic=Arithmetic(precision))
    worker.take(trial)
    assert worker.step().arithmetic == precision
    monkeypatch.setattr("crnn_search.training.device.cpu_flags", lambda: flags)
    rest = trained(other(worker), trial)
    assert rest[0].restored
    assert {r.arithmetic for r in rest} == {precision}


def test_node_without_a_compiler_says_what_it_really_computes_in(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "problem", lambda: "there is no compiler")
    results = trained(worker, dataclasses.replace(TRIAL, arithmetic=Arithmetic(cpu_kernels=True)))
    assert {r.arithmetic for r in results} == {"float32"}
    assert len(results[0].notes) == 1
    assert "there is no compiler" in results[0].notes[0]
    assert [r.notes for r in results[1:]] == [()] * 3


def test_nan_loss_fails_the_trial(worker: Worker) -> None:
    worker.take(TRIAL)
    first = worker.step()
    assert worker._state is not None
    with torch.no_grad():
        next(worker._state.model.parameters()).fill_(torch.nan)
    last = worker.step()
    assert (first.failed, last.failed, last.done, last.checkpoint) == (False, True, True, None)
    assert last.failure == "diverged: training loss nan in epoch 2"
    assert last.metrics is not None


@pytest.mark.parametrize(
    ("error", "field", "text"),
    [
        (ValueError("a bug\nin two lines"), "failure", "ValueError: a bug"),
        (MemoryError("full"), "out_of_memory", "MemoryError: full"),
        (torch.OutOfMemoryError("full"), "out_of_memory", "OutOfMemoryError: full"),
        (RuntimeError("memory is a word of this message"), "failure", "RuntimeError: memory is"),
        (StorageError("x", "disk full"), "storage_error", "cannot write x: disk full"),
    ],
)
def test_exception_is_a_result_of_its_kind(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, error: Exception, field: str, text: str
) -> None:
    worker.take(TRIAL)
    worker.step()

    def fail(state: TrainState, data: TrainingData, on_part: Any) -> EpochMetrics:
        raise error

    monkeypatch.setattr(engine, "train_epoch", fail)
    last = worker.step()
    causes: dict[str, Any] = {
        name: getattr(last, name) for name in ("failure", "out_of_memory", "storage_error")
    }
    assert causes.pop(field).startswith(text)
    assert set(causes.values()) == {None}
    assert (last.epoch, last.metrics, last.done, last.failed) == (1, None, True, True)


def test_lack_of_memory_of_a_cpu_is_told_by_the_message_of_pytorch(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocate(state: TrainState, data: TrainingData, on_part: Any) -> EpochMetrics:
        torch.empty(2**50, dtype=torch.uint8)
        raise AssertionError

    monkeypatch.setattr(engine, "train_epoch", allocate)
    worker.take(TRIAL)
    last = worker.step()
    assert "allocate memory" in str(last.out_of_memory)
    assert last.failure is None


def test_accelerator_error_is_raised(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(state: TrainState, data: TrainingData, on_part: Any) -> EpochMetrics:
        raise torch.AcceleratorError("an illegal memory access")

    monkeypatch.setattr(engine, "train_epoch", fail)
    worker.take(TRIAL)
    with pytest.raises(torch.AcceleratorError, match="an illegal memory access"):
        worker.step()


def test_result_travels_through_tune_unchanged() -> None:
    sent = step(2, 3.0, notes=("a note",), checkpoint="x")
    assert last_result({**sent.to_dict(), "hostname": "added by Tune"}) == sent
    assert sent.to_dict()[METRIC] == 3.0
    assert last_result({"trial_id": "only Tune's own"}) is None
    assert last_result(None) is None
    assert math.isnan(result(0, failure="bug")[METRIC])


def test_a_trial_tells_how_far_it_is_within_an_epoch(tmp_path: Path, digits: Digits) -> None:
    told: list[tuple[str, float]] = []
    task = FewDigits(digits)
    worker = Worker(task, str(tmp_path), CPU, lambda name, epochs: told.append((name, epochs)))
    trained(worker, dataclasses.replace(TRIAL, epochs=2))  # 64 sequences in batches of 32
    assert told == [(TRIAL.name, epochs) for epochs in (0.5, 1.0, 1.5, 2.0)]


def test_a_board_is_told_once_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    board, handle, now = epoch_parts.Board(), SimpleNamespace(), 100.0
    handle.tell = SimpleNamespace(remote=board.tell)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    tell = epoch_parts.Teller(handle)
    for epochs, later in ((0.1, 0.0), (0.2, 0.5), (0.3, 0.5), (0.4, 0.1)):
        now += later
        tell("a", epochs)
    assert board.read() == {"a": 0.3}
    epoch_parts.Teller(None)("a", 0.5)
