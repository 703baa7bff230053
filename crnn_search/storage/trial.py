"""A trial: one training of a network; and `TrialRecord`, what is known of it so far.

A search, the finalists' repetitions and the retraining all run trials. `Trial` is all that a
process needs to train it, again or anew; `TrialRecord` is built from the journal's events by
`apply`, the same way while they happen as when they are read again, and is a line of the ledger.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Self

from crnn_search.hyperparameters import PARAMETERS, Arithmetic, TrialConfig
from crnn_search.storage.checks import check_bounds, check_types, field_types

METRIC = "validation_rmse"
"""What searches minimise: RMSE on the validation sequences."""

DIED, OUT_OF_MEMORY, PREEMPTED = "process died", "out of memory", "node taken away"
"""Causes of a retry."""

_EVENT_TYPES = {
    "seconds": "float", "cpus": "float", "gpus": "float", "node": "str", "device": "str",
    "arithmetic": "str", "train_loss": "float | None", METRIC: "float | None",
    "failure": "str | None", "checkpoint": "str | None", "cause": "str", "state": "str",
    "reason": "str | None",
}  # fmt: skip
"""Types of the values in an event of a trial."""

_COUNT, _UNITS, _SECONDS = (1, 2**53), (0, 1e6), (0, 1e12)

_BOUNDS = {
    "number": (0, 2**53), "seed": (0, 2**53), "epochs": _COUNT, "grace_epochs": _COUNT,
    "epoch_sequences": _COUNT, "gpus": _UNITS, "cpus": _UNITS,
    "seconds": _SECONDS, "core_seconds": _SECONDS, "gpu_seconds": _SECONDS,
}  # fmt: skip
"""Bounds of the values of a trial, its record and its events."""

_NAME = re.compile(r"[\w-]+")
"""A trial's name is that of its folder of checkpoints."""

_CHECKPOINT = re.compile(r"checkpoints/[\w-]+/\w[\w.-]*")
"""Where a checkpoint is stored: in no other place."""


class TrialState(StrEnum):
    """Optuna's states, and `INFEASIBLE`: a sample that cannot be trained, and never was."""

    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAIL = "FAIL"
    INFEASIBLE = "INFEASIBLE"


@dataclass(frozen=True)
class Trial:
    """What one trial trains.

    name: its name in logs, journal and checkpoints, unique in a run. number: its place in a stage.
    seed: of weights, sequences and dropout.
    epochs: the full budget. grace_epochs: divergence is not checked before this epoch.
    epoch_sequences: training sequences of an epoch. data: identifies the task's sequences.
    arithmetic: the same for all trials of a run.
    all_images: train on validation data, too, and without validation.
    gpus: share of a GPU, if it is another than the stage's, since that was too little.
    """

    name: str
    number: int
    config: TrialConfig
    seed: int
    epochs: int
    grace_epochs: int
    epoch_sequences: int
    data: str
    arithmetic: Arithmetic = field(default_factory=Arithmetic)
    all_images: bool = False
    gpus: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The trial as Ray Tune, the journal and checkpoints carry it: a plain mapping."""
        return asdict(self) | {"config": self.config.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The trial that `to_dict` gave.

        Raises:
            ConfigError: a hyperparameter is unknown or out of range.
            KeyError, TypeError, ValueError: a field is missing, unknown, of another type or not
                valid.
        """
        config = TrialConfig.from_dict(values["config"])
        arithmetic = Arithmetic(**values["arithmetic"])
        check_types(values, field_types(cls))
        check_arithmetic(values["arithmetic"])
        check_bounds(values, _BOUNDS)
        trial = cls(**{**values, "config": config, "arithmetic": arithmetic})
        if not _NAME.fullmatch(trial.name):
            raise ValueError(f"name must be letters, digits, - and _, got {trial.name!r}")
        return trial

    def same_training(self, other: Trial) -> bool:
        """Whether both train the same network in the same way, on whatever share of a GPU."""
        return replace(self, number=0, gpus=None) == replace(other, number=0, gpus=None)


@dataclass
class TrialRecord:
    """What is known of one trial.

    validation_rmse, train_loss: by epoch, the first epoch first; None where it was not finite.
    failure: why it must end, or None. state: how it ended. reason: why it was stopped or failed.
    seconds: of training, restarts included; core_seconds, gpu_seconds: times what it held.
    node, device: where it trained last. arithmetics: those it was trained in, as they came; one,
    unless a node could not compute in that of the run.
    checkpoint: of its last valid epoch, relative to the run's folder. retries: their causes.
    """

    trial: Trial
    validation_rmse: list[float | None] = field(default_factory=list)
    train_loss: list[float | None] = field(default_factory=list)
    seconds: float = 0.0
    core_seconds: float = 0.0
    gpu_seconds: float = 0.0
    node: str = ""
    device: str = ""
    arithmetics: list[str] = field(default_factory=list)
    checkpoint: str | None = None
    failure: str | None = None
    state: TrialState = TrialState.RUNNING
    reason: str | None = None
    retries: list[str] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return self.state != TrialState.RUNNING

    @property
    def epochs(self) -> int:
        """Epochs that were trained."""
        return len(self.train_loss)

    @property
    def saved_epochs(self) -> int:
        """Epochs whose state was saved: all, but for one that failed."""
        return self.epochs - (self.failure is not None)

    @property
    def last_rmse(self) -> float | None:
        """Its last validation RMSE; None if there is none or it was not finite."""
        return self.validation_rmse[-1] if self.validation_rmse else None

    @property
    def train_rmse(self) -> float | None:
        """Root of its last training loss, the mean squared error; None if that was not finite."""
        loss = self.train_loss[-1] if self.train_loss else None
        return None if loss is None else math.sqrt(loss)

    @property
    def final_rmse(self) -> float:
        """Its last validation RMSE, of a trial that has one.

        Raises:
            ValueError: there is none, or it was not finite.
        """
        if self.last_rmse is None:
            raise ValueError(f"{self.trial.name} has no finite last validation RMSE")
        return self.last_rmse

    def apply(self, event: Mapping[str, Any]) -> None:
        """Update the record by an event of this trial: epoch, spent, retry or ended.

        Raises:
            ConfigError: the trial of a retry has a hyperparameter that is unknown or out of range.
            KeyError, TypeError, ValueError: the event lacks a key, or a value is not valid.
        """
        check_types(event, _EVENT_TYPES)
        check_bounds(event, _BOUNDS)
        kind = event["event"]
        if kind in {"epoch", "spent"}:
            self.seconds += event["seconds"]
            self.core_seconds += event["seconds"] * event["cpus"]
            self.gpu_seconds += event["seconds"] * event["gpus"]
            self.node, self.device = event["node"], event["device"]
            if event["arithmetic"] not in self.arithmetics:
                self.arithmetics.append(event["arithmetic"])
        if kind == "epoch":
            self.failure = event["failure"]
            self.train_loss.append(event["train_loss"])
            if METRIC in event:
                self.validation_rmse.append(event[METRIC])
            self.checkpoint = _checked(event["checkpoint"]) or self.checkpoint
        elif kind == "retry":
            self.retries.append(event["cause"])
            self.trial = Trial.from_dict(event["trial"])
        elif kind == "ended":
            self.state, self.reason = TrialState(event["state"]), event["reason"]

    def check(self) -> None:
        """Check what is known of an ended trial against itself.

        Raises:
            ValueError: its epochs are more than its budget, or not those of its state.
        """
        validated, last = len(self.validation_rmse), self.last_rmse
        if self.epochs > self.trial.epochs or validated not in {0, self.epochs}:
            raise ValueError(
                f"{self.trial.name} must have at most {self.trial.epochs} epochs, each with a "
                f"train_loss and all or none with a {METRIC}, got {self.epochs} and {validated}"
            )
        valid = {
            TrialState.COMPLETE: self.epochs == self.trial.epochs
            and (last is not None or self.trial.all_images),
            TrialState.PRUNED: last is not None,
            TrialState.FAIL: True,
        }
        if not valid.get(self.state, False):
            raise ValueError(
                f"{self.trial.name} cannot have ended as {self.state} after {self.epochs} of "
                f"{self.trial.epochs} epochs with the {METRIC} {last}"
            )

    def to_dict(self) -> dict[str, Any]:
        """A line of the ledger: the trial's own fields and these, in one flat mapping."""
        own = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "trial"}
        for key in ("seconds", "core_seconds", "gpu_seconds"):
            own[key] = round(own[key], 3)
        return self.trial.to_dict() | own

    @classmethod
    def from_dict(cls, line: Mapping[str, Any]) -> Self:
        """The record that `to_dict` gave. Raises as `Trial.from_dict`, and ValueError."""
        own = {item.name: line[item.name] for item in fields(cls) if item.name != "trial"}
        check_types(own, field_types(cls))
        check_bounds(own, _BOUNDS)
        _checked(own["checkpoint"])
        trial = Trial.from_dict({k: v for k, v in line.items() if k not in own})
        record = cls(**{**own, "trial": trial, "state": TrialState(line["state"])})
        record.check()
        return record


@dataclass(frozen=True)
class InfeasibleTrial:
    """A sampled configuration that cannot be trained: it takes a number, but never runs.

    config: what was sampled, flat. reason: why not.
    """

    number: int
    config: dict[str, Any]
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """A line of the ledger."""
        return {"state": TrialState.INFEASIBLE, **asdict(self)}

    @classmethod
    def from_dict(cls, line: Mapping[str, Any]) -> Self:
        """The trial that `to_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: a field is missing, of another type or not valid.
        """
        own = {item.name: line[item.name] for item in fields(cls)}
        check_types(own, field_types(cls))
        check_bounds(own, _BOUNDS)
        if unknown := own["config"].keys() - PARAMETERS.keys():
            raise ValueError(f"config has the unknown name {min(unknown)!r}")
        return cls(**own)


def check_arithmetic(values: Mapping[str, Any]) -> None:
    """Check the values of an `Arithmetic`. Raises KeyError, TypeError or ValueError."""
    check_types(values, {"precision": "str", "cpu_kernels": "bool"})
    if values["precision"] not in {"float32", "bfloat16"}:
        raise ValueError(f"precision must be float32 or bfloat16, got {values['precision']!r:.200}")


def _checked(checkpoint: str | None) -> str | None:
    """The place of a checkpoint, which may be none. Raises ValueError if it is no such place."""
    if checkpoint is not None and not _CHECKPOINT.fullmatch(checkpoint):
        raise ValueError(f"checkpoint must be a file of a trial's checkpoints, got {checkpoint!r}")
    return checkpoint


def trial_name(number: int) -> str:
    """The name of a trial of the search."""
    return f"trial-{number:04d}"


def finite(value: float | None) -> float | None:
    """A number as JSON may hold it: None for NaN and infinities."""
    return value if value is not None and math.isfinite(value) else None
