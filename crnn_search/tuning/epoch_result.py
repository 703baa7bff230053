"""The result of one step of a trial, as it travels through Ray Tune."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crnn_search.storage.trial import METRIC, TrialState
from crnn_search.training.metrics import EpochMetrics

_KEY = "epoch_result"


@dataclass(frozen=True)
class EpochResult:
    """What one step of a trial gave: an epoch's metrics, or why there are none.

    epoch: epochs trained so far. seconds: duration of the step.
    node, device, arithmetic: where and in what the trial computes.
    metrics: of the epoch; None if it did not end.
    failure: why the trial must end: it diverged or raised an exception.
    out_of_memory: the message, if memory ran out on the device or in the process.
    storage_error: why its checkpoint could not be read or written.
    restored: whether an earlier process trained the epoch.
    checkpoint: the state after the epoch, relative to the folder of checkpoints.
    running: the prediction after each image of a few validation sequences (`running_sheet.chosen`).
    done: whether the trial trains no further. notes: messages for the user.
    """

    epoch: int
    seconds: float
    node: str
    device: str
    arithmetic: str
    metrics: EpochMetrics | None = None
    failure: str | None = None
    out_of_memory: str | None = None
    storage_error: str | None = None
    restored: bool = False
    checkpoint: str | None = None
    running: tuple[tuple[float, ...], ...] | None = None
    done: bool = False
    notes: tuple[str, ...] = ()

    @property
    def validation_rmse(self) -> float | None:
        """Its validation RMSE, which may be NaN; None if it has none."""
        return self.metrics.validation_rmse if self.metrics else None

    @property
    def failed(self) -> bool:
        """Whether the trial ends here without a usable validation RMSE."""
        causes = (self.failure, self.out_of_memory, self.storage_error)
        rmse = self.validation_rmse
        return causes != (None, None, None) or rmse is None or not math.isfinite(rmse)

    def to_dict(self) -> dict[str, Any]:
        """What Tune carries: this object, and the keys that Tune and ASHA read themselves."""
        rmse = self.validation_rmse
        return {
            METRIC: math.nan if rmse is None else rmse,
            "epoch": self.epoch,
            "done": self.done,
            _KEY: self,
        }

    @staticmethod
    def from_dict(result: Mapping[str, Any]) -> EpochResult:
        """The result that `to_dict` gave; keys that Tune added are ignored."""
        step: EpochResult = result[_KEY]
        return step


def last_result(result: Mapping[str, Any] | None) -> EpochResult | None:
    """The last result of a trial of Tune's; None if it never reported one."""
    return EpochResult.from_dict(result) if result and _KEY in result else None


def ending_state(
    epoch: int, validation_rmse: float | None, max_epochs: int, *, failed: bool
) -> TrialState:
    """How a validated trial ended, from its last epoch: the one rule for study and ledger."""
    if failed or validation_rmse is None or not math.isfinite(validation_rmse):
        return TrialState.FAIL
    return TrialState.COMPLETE if epoch >= max_epochs else TrialState.PRUNED
