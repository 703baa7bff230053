"""Which trials are retried: those that lost their process or ran out of memory."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import ray.exceptions
from ray import cloudpickle

from crnn_search.storage.trial import DIED, OUT_OF_MEMORY, PREEMPTED, Trial, TrialRecord
from crnn_search.text import first_line
from crnn_search.tuning.epoch_result import last_result
from crnn_search.tuning.tune_trial import TuneTrial

MAX_RETRIES = {OUT_OF_MEMORY: 1, DIED: 3, PREEMPTED: math.inf}
"""How often a trial is retried, by cause. That a spot node is taken away is no fault of it."""


@dataclass(frozen=True)
class Interruption:
    """Why a trial was interrupted. cause: a key of `MAX_RETRIES`; None if its code raised."""

    cause: str | None
    reason: str

    def __str__(self) -> str:
        return f"{self.cause}: {self.reason}" if self.cause else self.reason


def interruption_of(trial: TuneTrial) -> Interruption:
    """What interrupted a trial of Tune's that reported no memory or raised an error.

    Ray stores the error in the trial's folder: pickled if it came from the trial's process or
    from that process's death, else, as for a node that ran out of memory, as text only.
    """
    if trial.error_file is None:
        last = last_result(trial.last_result)
        return Interruption(OUT_OF_MEMORY, (last and last.out_of_memory) or "")
    if trial.pickled_error_file is None:
        text = first_line(Path(trial.error_file).read_text().partition("\n")[2])
        return Interruption(OUT_OF_MEMORY if "memory" in text else DIED, text)
    error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    if isinstance(error, ray.exceptions.RayTaskError):
        error = error.cause
        text = f"{type(error).__name__}: {first_line(error)}"
        return Interruption(DIED if type(error).__name__ == "AcceleratorError" else None, text)
    if getattr(error, "preempted", False):
        return Interruption(PREEMPTED, first_line(error))
    return Interruption(DIED, first_line(error))


def retry_of(record: TrialRecord, interruption: Interruption, gpus: float) -> Trial | None:
    """The trial to run after an interruption; None if it has failed.

    gpus: the share of a GPU that it held. A trial that ran out of memory on a share gets twice as
    much.
    """
    cause = interruption.cause
    if cause is None or record.retries.count(cause) >= MAX_RETRIES[cause]:
        return None
    if cause == OUT_OF_MEMORY and gpus:
        return dataclasses.replace(record.trial, gpus=min(1.0, 2 * gpus) if gpus < 1 else gpus)
    return record.trial
