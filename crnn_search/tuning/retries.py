"""Which trials are retried: those that lost their process or ran out of memory."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from ray.exceptions import RayActorError, RayTaskError

from crnn_search.storage.trial import DIED, OUT_OF_MEMORY, PREEMPTED, Trial, TrialRecord
from crnn_search.text import first_line
from crnn_search.tuning.epoch_result import last_result
from crnn_search.tuning.tune_trial import TuneTrial, error_of

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
    """What interrupted a trial of Tune's that reported no memory or ended by an error.

    A trial's process reports all that it can itself: a lack of memory is in its last result. It
    raises only what makes the process unusable. Whatever else ended it is a death: of the process
    or of its node, taken away or lost, or killed by Ray since the node's memory ran low.
    """
    last = last_result(trial.last_result)
    if last is not None and last.out_of_memory is not None:
        return Interruption(OUT_OF_MEMORY, last.out_of_memory)
    error = error_of(trial)
    if isinstance(error, RayTaskError):
        cause = error.cause
        text = f"{type(cause).__name__}: {first_line(cause)}"
        return Interruption(DIED if isinstance(cause, torch.AcceleratorError) else None, text)
    preempted = isinstance(error, RayActorError) and error.preempted
    return Interruption(PREEMPTED if preempted else DIED, first_line(error))


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
