"""What interrupted a trial, and whether it is retried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray.exceptions
from ray import cloudpickle
from ray.core.generated.common_pb2 import ActorDiedErrorContext, NodeDeathInfo

from crnn_search.storage.trial import DIED, OUT_OF_MEMORY, PREEMPTED
from crnn_search.tuning.retries import Interruption, interruption_of, retry_of
from tests.tuning.examples import TRIAL, record, result, tune_trial

GONE = "The actor died unexpectedly before finishing this task."


class AcceleratorError(RuntimeError):
    """As PyTorch calls a CUDA error."""


def raised(error: Exception) -> ray.exceptions.RayTaskError:
    """An error as Ray brings it from the trial's process."""
    return ray.exceptions.RayTaskError("step", "the traceback", error)


def preempted() -> ray.exceptions.ActorDiedError:
    """As Ray brings it from a spot node that is taken away."""
    death = NodeDeathInfo(reason=NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED)
    context = ActorDiedErrorContext(actor_id=bytes(16), node_death_info=death)
    error = ray.exceptions.ActorDiedError(context)
    error.args = ()
    return error


@pytest.mark.parametrize(
    ("error", "cause", "reason"),
    [
        (raised(ValueError("a bug\nin two lines")), None, "ValueError: a bug"),
        (raised(AcceleratorError("misaligned")), DIED, "AcceleratorError: misaligned"),
        (ray.exceptions.ActorDiedError(), DIED, GONE),
        (preempted(), PREEMPTED, GONE),
    ],
)
def test_cause_of_a_pickled_error(
    tmp_path: Path, error: Exception, cause: str | None, reason: str
) -> None:
    trial = tune_trial()
    trial.error_file = trial.pickled_error_file = str(tmp_path / "error")
    (tmp_path / "error").write_bytes(cloudpickle.dumps(error))
    assert interruption_of(trial) == Interruption(cause, reason)


@pytest.mark.parametrize(
    ("text", "cause"),
    [("Task was killed due to the node running low on memory.", OUT_OF_MEMORY), ("gone", DIED)],
)
def test_cause_of_an_error_that_is_text(tmp_path: Path, text: str, cause: str) -> None:
    trial = tune_trial()
    trial.error_file = str(tmp_path / "error")
    (tmp_path / "error").write_text(f"Failure # 1\n{text}\n")
    assert interruption_of(trial) == Interruption(cause, text)


def test_cause_of_a_lack_of_memory_that_the_trial_reported() -> None:
    trial = tune_trial()
    trial.last_result = result(1, out_of_memory="MemoryError: 3 GB")
    interruption = interruption_of(trial)
    assert str(interruption) == "out of memory: MemoryError: 3 GB"


@pytest.mark.parametrize(
    ("cause", "retries", "retried"),
    [
        (None, [], False),
        (OUT_OF_MEMORY, [], True),
        (OUT_OF_MEMORY, [OUT_OF_MEMORY], False),
        (OUT_OF_MEMORY, [DIED], True),
        (DIED, [DIED, DIED], True),
        (DIED, [DIED, DIED, DIED], False),
        (PREEMPTED, [PREEMPTED] * 100, True),
    ],
)
def test_number_of_retries_by_cause(cause: str | None, retries: list[str], retried: bool) -> None:
    known = record(0, retries=retries)
    trial = retry_of(known, Interruption(cause, ""), gpus=0.0)
    assert trial == (TRIAL if retried else None)


@pytest.mark.parametrize(("gpus", "expected"), [(0.25, 0.5), (0.75, 1.0), (1.0, 1.0), (2.0, 2.0)])
def test_retry_after_a_lack_of_memory_gets_twice_the_share(gpus: float, expected: float) -> None:
    trial: Any = retry_of(record(0), Interruption(OUT_OF_MEMORY, ""), gpus)
    assert trial.gpus == expected
    assert trial.same_training(TRIAL)


def test_retry_after_a_death_keeps_its_share() -> None:
    assert retry_of(record(0), Interruption(DIED, ""), gpus=0.25) == TRIAL
