"""What one trial trains: a `Job` is all that a process needs to know to train it, again or anew."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

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
