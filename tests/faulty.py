"""A trainable with faults, which tests put in place of the real one; and a disk that gets full."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch

from crnn_search.tuning import trainable
from crnn_search.tuning.epoch_result import EpochResult
from crnn_search.tuning.trainable import TrialTrainable
from crnn_search.tuning.worker import Worker

PROGRAM = """
import os
os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it when it is imported
from crnn_search.tuning import tuner
from tests.faulty import FaultyTrainable
tuner.TrialTrainable = FaultyTrainable
"""

FULL_DISK = """
import errno, os
from crnn_search.storage import jsonl
whole = jsonl.append
left = [9]
def append(path, record):
    left[0] -= 1
    if left[0] < 0:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    whole(path, record)
jsonl.append = append
"""
"""The disk is full after nine lines of journal and ledger."""

FOLDER = "FAULTS"
"""Environment variable that names a folder; each fault that has happened leaves a file there."""


class FaultyTrainable(TrialTrainable):
    """Trains with a `FaultyWorker`."""

    def setup(self, config: dict[str, Any], *arguments: Any, **parameters: Any) -> None:
        trainable.Worker = FaultyWorker  # type: ignore[attr-defined]
        super().setup(config, *arguments, **parameters)


class FaultyWorker(Worker):
    """In the search: trial 1 is killed once, 2 gets NaN, 3 raises, 4 lacks memory once, 5 always.

    The process of trial 6 loses its device once, and must not train it again.
    """

    def _epoch(self) -> EpochResult:
        number, state = self._trial.number, self._state
        assert state is not None
        if self._trial.all_images or "seed" in self._trial.name or state.epoch != 1:
            return super()._epoch()
        if number == 1 and self._first_time("killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 2:
            with torch.no_grad():
                next(state.model.parameters()).fill_(torch.nan)
        if number == 3:
            raise ValueError("a fault that was put in")
        if number == 5 or (number == 4 and self._first_time("memory")):
            raise torch.OutOfMemoryError("a device that is full")
        if number == 6 and self._first_time("device"):
            raise torch.AcceleratorError("the device is lost")
        if number == 6 and (Path(os.environ[FOLDER]) / "device").read_text() == str(os.getpid()):
            raise RuntimeError("the process of a lost device was used again")
        return super()._epoch()

    def _first_time(self, fault: str) -> bool:
        mark = Path(os.environ[FOLDER]) / fault
        if mark.exists():
            return False
        mark.write_text(str(os.getpid()))
        return True
