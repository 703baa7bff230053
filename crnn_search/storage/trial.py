"""What one trial trains: a `Job` is all that a process needs to know to train it, again or anew."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from crnn_search.storage.jsonl import Record

METRIC = "validation_rmse"
"""What searches minimise: RMSE on the validation sequences."""


@dataclass(frozen=True)
class Job:
    """What one trial trains.

    name: its name in logs, journal and checkpoints, unique in a run. number: its place in a stage.
    config: flat configuration. seed: of weights, sequences and dropout.
    epochs: the full budget. grace_epochs: a diverged network is let go on until then.
    epoch_sequences: training sequences of an epoch. max_digits: length of the longest sequence.
    all_images: train on all 60,000 training images, without validation.
    gpus: share of a GPU, if it is another than the stage's, since that was too little.
    """

    name: str
    number: int
    config: dict[str, Any]
    seed: int
    epochs: int
    grace_epochs: int
    epoch_sequences: int
    max_digits: int
    all_images: bool = False
    gpus: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The job as Ray Tune and the journal carry it: a plain mapping."""
        return asdict(self)

    def trains_as(self, other: Job) -> bool:
        """Whether both train the same network in the same way, on whatever share of a GPU."""
        return replace(self, number=0, gpus=None) == replace(other, number=0, gpus=None)


DIED, OUT_OF_MEMORY, PREEMPTED = "process died", "out of memory", "node taken away"
"""Causes of an `again` event."""


@dataclass
class JobRecord:
    """What became of one job.

    values: validation RMSE by epoch, None where it was no number. losses: training loss by epoch.
    state: COMPLETE, PRUNED or FAIL, empty while it runs. failure: why it must end, or None.
    seconds: of training, restarts included; core_seconds, gpu_seconds: times what it held.
    checkpoint: of its last sound epoch, relative to the run's folder. again: causes of restarts.
    """

    job: Job
    values: list[float | None] = field(default_factory=list)
    losses: list[float | None] = field(default_factory=list)
    seconds: float = 0.0
    core_seconds: float = 0.0
    gpu_seconds: float = 0.0
    node: str = ""
    device: str = ""
    checkpoint: str | None = None
    failure: str | None = None
    state: str = ""
    reason: str | None = None
    again: list[str] = field(default_factory=list)

    @property
    def epochs(self) -> int:
        """Epochs that are known of it."""
        return len(self.losses)

    @property
    def sound_epochs(self) -> int:
        """Epochs whose state was saved: all, but for one that failed."""
        return self.epochs - (self.failure is not None)

    @property
    def last(self) -> float:
        """Its last validation RMSE.

        Raises:
            ValueError: it has none that is a number.
        """
        if not self.values or self.values[-1] is None:
            raise ValueError(f"{self.job.name} has no last value")
        return self.values[-1]

    def apply(self, event: Record) -> None:
        """Take in an event of this job; one of an epoch that is known already counts as `spent`."""
        kind = event["event"]
        if kind in {"epoch", "spent"}:
            self.seconds += event["seconds"]
            self.core_seconds += event["seconds"] * event["cpus"]
            self.gpu_seconds += event["seconds"] * event["gpus"]
            self.node, self.device = event["node"], event["device"]
        if kind == "epoch":
            self.failure = event["failure"]
            self.losses.append(event["loss"])
            if "value" in event:
                self.values.append(event["value"])
            self.checkpoint = event["checkpoint"] or self.checkpoint
        elif kind == "again":
            self.again.append(event["cause"])
            self.job = Job(**event["job"])
        elif kind == "ended":
            self.state, self.reason = event["state"], event["reason"]

    def ledger_line(self) -> Record:
        """The record as the ledger keeps it."""
        return {
            "number": self.job.number,
            "state": self.state,
            "reason": self.reason,
            "config": self.job.config,
            "values": self.values,
            "node": self.node,
            "device": self.device,
            "seconds": round(self.seconds, 3),
            "core_seconds": round(self.core_seconds, 3),
            "gpu_seconds": round(self.gpu_seconds, 3),
            "seed": self.job.seed,
            "checkpoint": self.checkpoint,
        }


def trial_name(number: int) -> str:
    """The name of a trial of the search."""
    return f"trial-{number:04d}"


def _infeasible_job(line: Record) -> Job:
    """A job that never was: that of a sampled network that cannot be built."""
    return Job(trial_name(line["number"]), line["number"], line["config"], 0, 0, 0, 0, 0)


def finite(value: float | None) -> float | None:
    """A number as JSON may hold it: None if it is none."""
    return value if value is not None and math.isfinite(value) else None
