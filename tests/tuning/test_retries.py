"""What interrupted a trial, and whether it is retried."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.exceptions
import torch
from ray.core.generated.common_pb2 import ActorDiedErrorContext, NodeDeathInfo
from ray.tune.experiment import Trial

from crnn_search.storage.trial import DIED, OUT_OF_MEMORY, PREEMPTED
from crnn_search.tuning.retries import Interruption, interruption_of, retry_of
from crnn_search.tuning.tune_trial import error_of, free_memory
from tests.tuning.examples import TRIAL, record, result

GONE = "The actor died unexpectedly before finishing this task."
LOW = "Task was killed due to the node running low on memory."


class AcceleratorError(RuntimeError):
    """Not PyTorch's."""


@pytest.fixture
def in_tune(tmp_path: Path) -> Trial:
    """A trial of Tune's own class."""
    storage = SimpleNamespace(trial_driver_staging_path=str(tmp_path))
    return Trial("trainable", stub=True, storage=storage)


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


def tune_result(**fields: Any) -> dict[str, Any]:
    """A result as Tune completes it."""
    return {**result(1, 3.0, **fields), "time_total_s": 1.0, "done": False}


@pytest.mark.parametrize(
    ("error", "cause", "reason"),
    [
        (raised(ValueError("a bug\nin two lines")), None, "ValueError: a bug"),
        (raised(ValueError("too little memory")), None, "ValueError: too little memory"),
        (raised(torch.AcceleratorError("misaligned")), DIED, "AcceleratorError: misaligned"),
        (raised(AcceleratorError("a name")), None, "AcceleratorError: a name"),
        (ray.exceptions.ActorDiedError(), DIED, GONE),
        (preempted(), PREEMPTED, GONE),
        (ray.exceptions.OutOfMemoryError(LOW), DIED, LOW),
        (ray.exceptions.NodeDiedError("its memory is gone"), DIED, "its memory is gone"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_cause_of_an_error(
    in_tune: Trial, error: Exception, cause: str | None, reason: str
) -> None:
    """From Tune's own files: a new Ray that writes others fails here."""
    in_tune.handle_error(error)
    assert interruption_of(in_tune) == Interruption(cause, reason)


def test_error_that_tune_does_not_keep_is_a_death() -> None:
    trial: Any = SimpleNamespace(last_result=None)
    assert error_of(trial) == "unknown error"
    assert interruption_of(trial) == Interruption(DIED, "unknown error")


def test_cause_of_a_lack_of_memory_that_the_trial_reported(in_tune: Trial) -> None:
    in_tune.update_last_result(tune_result(out_of_memory="MemoryError: 3 GB"))
    assert str(interruption_of(in_tune)) == "out of memory: MemoryError: 3 GB"


def test_memory_of_an_ended_trial_is_freed(in_tune: Trial) -> None:
    in_tune.update_last_result(tune_result())
    assert in_tune.metric_analysis
    assert in_tune.run_metadata.metric_n_steps
    free_memory(in_tune)
    assert in_tune.metric_analysis == in_tune.run_metadata.metric_n_steps == {}
    lacking: Any = SimpleNamespace()
    free_memory(lacking)


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
