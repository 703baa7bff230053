"""One trial, as Ray Tune runs it: an actor that trains one `Job` after another, epoch by epoch.

Checkpoints are the project's own files, not Ray's: whoever trains a job looks for its newest one
first. So a restarted process, a resumed search and another host all go on in the same way.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from ray import tune

from crnn_search.data.sequences import (
    TRAINING_IMAGES,
    Digits,
    SequenceTable,
    shared_tensor,
    split_images,
    validation_table,
)
from crnn_search.errors import StorageError
from crnn_search.hyperparameters import TrialConfig
from crnn_search.storage.object_store import join
from crnn_search.storage.trial import METRIC, Job
from crnn_search.text import first_line
from crnn_search.training import engine, memory
from crnn_search.training.engine import TrainingData, TrainState
from crnn_search.training.metrics import EpochMetrics
from crnn_search.tuning.checkpoints import CheckpointFolder

DIVERGENCE_FACTOR = 2.0


class DigitSumTrainable(tune.Trainable):  # type: ignore[misc]
    """Trains one job; each `step` is one epoch. An actor is used for many jobs in turn.

    A `step` always gives a result. Besides an epoch's metrics it has

    - `failure`: why the trial must end: it diverged or raised an exception;
    - `out_of_memory`: that memory ran out, on the device or in the process;
    - `storage`: why its checkpoint could not be written, which is no fault of the trial;
    - `restored`: whether the epoch is one that an earlier process trained;
    - `checkpoint`: the name of the state after the epoch; `notes`: what else should be known.

    A CUDA error leaves the process unusable: it is raised, so that another takes its place.
    """

    def setup(
        self, config: dict[str, Any], images: Any = None, labels: Any = None, checkpoints: str = ""
    ) -> None:
        """Take the images from the object store, without copying them, and the first job.

        images: uint8 `(60000, 28, 28)`. labels: uint8 `(60000,)`. NumPy arrays, read-only.
        checkpoints: the folder of all jobs' checkpoints, or its URI.
        """
        granted = self.trial_resources.required_resources
        self._device = engine.pick_device()
        if self._device.type == "cuda" and not granted.get("GPU"):
            self._device = torch.device("cpu")
        memory.limit_to(granted.get("GPU", 0.0), self._device)
        memory.keep_freed()
        if self._device.type == "cpu":
            torch.set_num_threads(max(1, int(granted["CPU"])))
        self._digits = Digits(shared_tensor(images), shared_tensor(labels)).to(self._device)
        self._labels = self._digits.labels.cpu()
        self._tables: dict[int, SequenceTable] = {}
        self._checkpoints = checkpoints
        self._told: set[str] = set()
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next job; the images and tables stay."""
        self._job = Job(**new_config["job"])
        self._state: TrainState | None = None
        self._notes: list[str] = []
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch, or give the last one that another process trained."""
        began = time.monotonic()
        try:
            result = self._start() if self._state is None else None
            result = result or self._epoch()
        except torch.AcceleratorError:
            raise
        except Exception as error:
            result = self._trouble(error, time.monotonic() - began)
        notes, self._notes = self._notes, []
        return {"device": _device_name(self._device), "notes": notes, "restored": False} | result

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: Ray keeps no checkpoints here."""

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: see `save_checkpoint`."""

    def _start(self) -> dict[str, Any] | None:
        """Find or make the job's state; the last epoch it had, if any."""
        job = self._job
        self._folder = CheckpointFolder(join(self._checkpoints, job.name), self._note)
        self._data = TrainingData(
            self._digits,
            torch.arange(TRAINING_IMAGES) if job.all_images else split_images(self._labels)[0],
            None if job.all_images else self._validation(job.max_digits),
            job.epoch_sequences,
            job.max_digits,
        )
        found = self._folder.load(job, self._device)
        self._state, self._history = found.state, found.history
        self._notes += found.problems
        if self._state is None:
            config = TrialConfig.from_dict(job.config)
            self._state = engine.start(
                config, seed=job.seed, epochs=job.epochs, device=self._device
            )
            return None
        return self._sound(self._history[-1]) | {"restored": True}

    def _epoch(self) -> dict[str, Any]:
        assert self._state is not None
        metrics = next(engine.train(self._state, self._data))
        if (note := self._state.note) and note not in self._told:  # not again for every job
            self._told.add(note)
            self._note(note)
        figures = {name: value for name, value in metrics.to_dict().items() if value is not None}
        reason = failure_reason(metrics, self._data.validation, self._job.grace_epochs)
        if reason is not None:
            return figures | {"failure": reason, "done": True}
        self._history.append(figures)
        self._folder.save(self._state, self._history)
        return self._sound(figures)

    def _note(self, text: str) -> None:
        self._notes.append(text)

    def _sound(self, figures: dict[str, Any]) -> dict[str, Any]:
        """The result of an epoch whose state is saved."""
        epoch = figures["epoch"]
        return figures | {
            "done": epoch >= self._job.epochs,
            "checkpoint": f"{self._job.name}/{self._folder.name(epoch)}",
        }

    def _trouble(self, error: Exception, seconds: float) -> dict[str, Any]:
        """The result of an epoch that did not come to its end."""
        text = f"{type(error).__name__}: {first_line(error)}"
        if isinstance(error, StorageError):
            kind, text = "storage", str(error)
        else:
            kind = "out_of_memory" if _is_out_of_memory(error) else "failure"
        epoch = self._state.epoch if self._state else 0
        self._state = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return {"epoch": epoch, METRIC: math.nan, kind: text, "seconds": seconds, "done": True}

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


def _is_out_of_memory(error: Exception) -> bool:
    """PyTorch has an exception for devices, but none for the CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
