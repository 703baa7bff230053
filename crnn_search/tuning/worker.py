"""Trains trials in this process, one after another, epoch by epoch. Needs no Ray."""

from __future__ import annotations

import dataclasses
import math
import platform
import time
from collections.abc import Callable

import torch

from crnn_search.data.running_sheet import chosen
from crnn_search.data.sequences import SequenceTable
from crnn_search.data.task import Task
from crnn_search.errors import StorageError
from crnn_search.storage.location import join
from crnn_search.storage.trial import Trial
from crnn_search.text import first_line
from crnn_search.training import engine
from crnn_search.training.engine import TrainingData, TrainState
from crnn_search.training.metrics import EpochMetrics
from crnn_search.training.predict import predict_running
from crnn_search.tuning.checkpoints import CheckpointFolder
from crnn_search.tuning.epoch_result import EpochResult

DIVERGENCE_FACTOR = 2.0


class Worker:
    """Trains the trial that `take` gave; each `step` is one epoch.

    Its checkpoints are the project's own files, not Ray's: whoever trains a trial looks for its
    newest one first. So a restarted process, a resumed search and another host all continue in
    the same way.
    """

    def __init__(
        self,
        task: Task,
        checkpoints: str,
        device: torch.device,
        on_part: Callable[[str, float], None] = lambda name, epochs: None,
    ) -> None:
        """task: on `device`. checkpoints: the folder of all trials' checkpoints, or its URI.

        on_part: called after each step with the trial's name and its epochs, 1.5 in the middle of
        the second.
        """
        self._task = task
        self._checkpoints = checkpoints
        self._device = device
        self._on_part = on_part
        self._validation = task.validation_table()
        self._chosen = chosen(self._validation)
        self._shown: set[str] = set()

    def take(self, trial: Trial) -> None:
        """Train this trial from now on; the task stays."""
        self._trial = trial
        self._state: TrainState | None = None
        self._notes: list[str] = []

    def step(self) -> EpochResult:
        """Train an epoch, or give the last one that another process trained.

        Raises:
            torch.AcceleratorError: the device is unusable in this process from now on.
        """
        started = time.monotonic()
        try:
            restored = self._start() if self._state is None else None
            result = restored or self._epoch()
        except torch.AcceleratorError:
            raise
        except Exception as error:
            result = self._failure(error, time.monotonic() - started)
        notes, self._notes = self._notes, []
        return dataclasses.replace(result, notes=tuple(notes))

    def _start(self) -> EpochResult | None:
        """Find or create the trial's state; the last epoch it had, if any."""
        trial = self._trial
        self._folder = CheckpointFolder(join(self._checkpoints, trial.name), self._note)
        self._data = TrainingData(
            self._task, None if trial.all_images else self._validation, trial.epoch_sequences
        )
        found = self._folder.load(trial, self._device)
        self._state, self._history = found.state, found.history
        self._notes += found.problems
        last: EpochMetrics | None = None
        if self._state is not None:
            try:
                last = EpochMetrics(**self._history[-1])
            except (IndexError, TypeError) as error:
                self._note(f"checkpoint not used: the metrics of its epochs are altered: {error}")
        if last is None:
            self._history = []
            self._state = engine.start(
                trial.config,
                seed=trial.seed,
                epochs=trial.epochs,
                device=self._device,
                shape=self._task.info.shape,
                arithmetic=trial.arithmetic,
            )
            return None
        return dataclasses.replace(self._saved(last), restored=True)

    def _epoch(self) -> EpochResult:
        """Train an epoch and save the state, unless the trial failed in it."""
        assert self._state is not None
        name, before = self._trial.name, self._state.epoch
        metrics = engine.train_epoch(
            self._state, self._data, lambda part: self._on_part(name, before + part)
        )
        if (note := self._state.note) and note not in self._shown:  # not again for every trial
            self._shown.add(note)
            self._note(note)
        failure = failure_reason(metrics, self._data.validation, self._trial.grace_epochs)
        if failure is not None:
            result = self._result(metrics.epoch, metrics.seconds)
            return dataclasses.replace(result, metrics=metrics, failure=failure, done=True)
        self._history.append(metrics.to_dict())
        self._folder.save(self._trial, self._state, self._history)
        return self._saved(metrics)

    def _saved(self, metrics: EpochMetrics) -> EpochResult:
        """The result of an epoch whose state is saved."""
        return dataclasses.replace(
            self._result(metrics.epoch, metrics.seconds),
            metrics=metrics,
            checkpoint=f"{self._trial.name}/{self._folder.name(metrics.epoch)}",
            running=None if self._trial.all_images else self._running(),
            done=metrics.epoch >= self._trial.epochs,
        )

    def _running(self) -> tuple[tuple[float, ...], ...]:
        """The prediction after each image of some validation sequences, in the target's unit."""
        assert self._state is not None
        info, table = self._task.info, self._chosen
        running = predict_running(self._state.result, self._task.images, table)
        rows = (running * info.scale + info.center).tolist()
        return tuple(
            tuple(row[:length]) for row, length in zip(rows, table.lengths.tolist(), strict=True)
        )

    def _failure(self, error: Exception, seconds: float) -> EpochResult:
        """The result of a step that raised an exception; the state is dropped."""
        result = self._result(self._state.epoch if self._state else 0, seconds)
        self._state = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        text = f"{type(error).__name__}: {first_line(error)}"
        if isinstance(error, StorageError):
            return dataclasses.replace(result, storage_error=str(error), done=True)
        if _is_out_of_memory(error):
            return dataclasses.replace(result, out_of_memory=text, done=True)
        return dataclasses.replace(result, failure=text, done=True)

    def _result(self, epoch: int, seconds: float) -> EpochResult:
        """What every result has."""
        arithmetic = self._state.arithmetic if self._state else self._trial.arithmetic
        cuda = self._device.type == "cuda"
        device = torch.cuda.get_device_name(self._device) if cuda else self._device.type
        return EpochResult(epoch, seconds, platform.node(), device, str(arithmetic))

    def _note(self, text: str) -> None:
        self._notes.append(text)


def failure_reason(
    metrics: EpochMetrics, validation: SequenceTable | None, grace_epochs: int
) -> str | None:
    """Why a trial has failed after an epoch, or None.

    It has if its loss or RMSE is not finite, or if after the grace period its validation RMSE is
    above twice that of guessing the mean.
    """
    if not math.isfinite(metrics.train_loss):
        return f"diverged: training loss {metrics.train_loss} in epoch {metrics.epoch}"
    if validation is None or metrics.validation_rmse is None:
        return None
    if not math.isfinite(metrics.validation_rmse):
        return f"diverged: validation RMSE {metrics.validation_rmse} in epoch {metrics.epoch}"
    limit = DIVERGENCE_FACTOR * validation.targets.std(correction=0).item()
    if metrics.epoch > grace_epochs and metrics.validation_rmse > limit:
        return (
            f"diverged: validation RMSE {metrics.validation_rmse:.1f} in epoch {metrics.epoch}, "
            f"above {limit:.1f}, twice that of guessing the mean"
        )
    return None


def _is_out_of_memory(error: Exception) -> bool:
    """PyTorch has an exception for devices, but none for the CPU: only its allocator's message."""
    message = "DefaultCPUAllocator: can't allocate memory"
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or message in str(error)
