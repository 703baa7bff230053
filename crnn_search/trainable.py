"""One trial, as Ray Tune runs it: an actor that trains one `Job` after another, epoch by epoch."""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import tune

from crnn_search import checkpoint, engine
from crnn_search.config import TrialConfig
from crnn_search.data import TRAINING_IMAGES, Digits, SequenceTable, split_images, validation_table
from crnn_search.engine import EpochMetrics, TrainingData, TrainState

METRIC = "validation_rmse"
STATE_FILE = "state.safetensors"
DIVERGENCE_FACTOR = 2.0


@dataclass(frozen=True)
class Job:
    """What one trial trains.

    name: its name in the logs. number: its place in its stage.
    config: flat configuration. seed: of weights, sequences and dropout.
    epochs: the full budget. grace_epochs: a diverged network is let go on until then.
    epoch_sequences: training sequences of an epoch. max_digits: length of the longest sequence.
    all_images: train on all 60,000 training images, without validation.
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

    def to_dict(self) -> dict[str, Any]:
        """The job as Ray Tune carries it: a plain mapping."""
        return asdict(self)


class DigitSumTrainable(tune.Trainable):  # type: ignore[misc]
    """Trains one job; each `step` is one epoch. An actor is used for many jobs in turn."""

    _state: TrainState

    def setup(self, config: dict[str, Any], images: Any = None, labels: Any = None) -> None:
        """Take the images from the object store, without copying them, and the first job.

        images: uint8 `(60000, 28, 28)`. labels: uint8 `(60000,)`. NumPy arrays, read-only.
        """
        granted = self.trial_resources.required_resources
        self._device = engine.pick_device()
        if self._device.type == "cuda" and not granted.get("GPU"):
            self._device = torch.device("cpu")
        if self._device.type == "cpu":
            torch.set_num_threads(max(1, int(granted["CPU"])))
        self._digits = Digits(_shared_tensor(images), _shared_tensor(labels)).to(self._device)
        self._labels = self._digits.labels.cpu()
        self._tables: dict[int, SequenceTable] = {}
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next job; the images and tables stay."""
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch.

        `failure` is the reason why a diverged trial must end, else missing.
        """
        metrics = next(engine.train(self._state, self._data))
        result = metrics.to_dict() | {"device": _device_name(self._device)}
        reason = failure_reason(metrics, self._data.validation, self._job.grace_epochs)
        if reason is not None:
            result["failure"] = reason
        result["done"] = reason is not None or metrics.epoch >= self._job.epochs
        return {name: value for name, value in result.items() if value is not None}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the state of the training into a folder."""
        checkpoint.save_state(Path(checkpoint_dir) / STATE_FILE, self._state)

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Go on from a folder that `save_checkpoint` wrote to."""
        self._state = checkpoint.load_state(Path(checkpoint_dir) / STATE_FILE, self._device)

    def _begin(self, config: dict[str, Any]) -> None:
        self._job = job = Job(**config["job"])
        self._state = engine.start(
            TrialConfig.from_dict(job.config), seed=job.seed, epochs=job.epochs, device=self._device
        )
        self._data = TrainingData(
            self._digits,
            torch.arange(TRAINING_IMAGES) if job.all_images else split_images(self._labels)[0],
            None if job.all_images else self._validation(job.max_digits),
            job.epoch_sequences,
            job.max_digits,
        )

    def _validation(self, max_digits: int) -> SequenceTable:
        if max_digits not in self._tables:
            self._tables[max_digits] = validation_table(self._labels, max_digits)
        return self._tables[max_digits]


def failure_reason(
    metrics: EpochMetrics, validation: SequenceTable | None, grace_epochs: int
) -> str | None:
    """Why a trial has failed after an epoch, or None.

    It has if a figure is not finite, or if after the grace period its validation RMSE is above
    twice that of guessing the mean.
    """
    if not math.isfinite(metrics.train_loss):
        return f"diverged: training loss {metrics.train_loss} in epoch {metrics.epoch}"
    if validation is None or metrics.validation_rmse is None:
        return None
    if not math.isfinite(metrics.validation_rmse):
        return f"diverged: validation RMSE {metrics.validation_rmse} in epoch {metrics.epoch}"
    limit = DIVERGENCE_FACTOR * validation.sums.std(correction=0).item()
    if metrics.epoch > grace_epochs and metrics.validation_rmse > limit:
        return (
            f"diverged: validation RMSE {metrics.validation_rmse:.1f} in epoch {metrics.epoch}, "
            f"above {limit:.1f}, twice that of guessing the mean"
        )
    return None


def _shared_tensor(array: Any) -> torch.Tensor:
    """A tensor over an array of the object store, without a copy."""
    with warnings.catch_warnings():
        # The store's memory is read-only; nothing here writes to images or labels.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(array))


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
