"""TensorBoard's event files of a stage: a folder for each trial."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import hparams, scalar

from crnn_search.hyperparameters import TrialConfig
from crnn_search.storage.trial import METRIC, Trial
from crnn_search.training.metrics import EpochMetrics

SCALARS = (
    METRIC, "exact_sum_rate", "train_loss", "learning_rate", "sequences_per_s", "peak_memory_mb",
)  # fmt: skip


class TensorBoard:
    """Writes each trial's hyperparameters with its first epoch, and scalars with every one.

    Nothing reads these files but TensorBoard: if one cannot be written, the user is told once, and
    no more are written.
    """

    def __init__(self, folder: Path, note: Callable[[str], None]) -> None:
        """note: tells the user."""
        self._folder = folder
        self._note = note
        self._files: dict[str, _EventFile] = {}
        self._failed = False

    def write(self, trial: Trial, metrics: EpochMetrics) -> None:
        """Write an epoch of a trial."""
        if self._failed:
            return
        try:
            self._write(trial, metrics)
        except OSError as error:
            self._failed = True
            self.close(trial.name)
            self._note(f"cannot write TensorBoard's files in {self._folder}: {error.strerror}")

    def close(self, name: str) -> None:
        """Close the file of a trial that ended."""
        if file := self._files.pop(name, None):
            file.close()

    def _write(self, trial: Trial, metrics: EpochMetrics) -> None:
        if trial.name not in self._files:
            self._folder.parent.mkdir(exist_ok=True)  # not the run's folder, if that is gone
            self._folder.mkdir(exist_ok=True)
            self._files[trial.name] = file = _EventFile(self._folder / trial.name)
            if metrics.epoch == 1:
                # Not by `SummaryWriter.add_hparams`: it writes them to a second file, and once
                # TensorBoard has seen the newer file of a folder it no longer reads what the older
                # one gets.
                for summary in hparams(_flat(trial.config), {METRIC: 0.0}):
                    file.add(summary)
        file, values = self._files[trial.name], metrics.to_dict()
        for name in SCALARS:
            if values[name] is not None:
                file.add(scalar(name, values[name]), metrics.epoch)


class _EventFile:
    """An event file. Each event is in it when `add` returns, and its errors are raised there.

    PyTorch's `FileWriter` writes in a thread, which prints a traceback if the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("ab", buffering=0)
        self._records = RecordWriter(self._file)
        try:
            self._add(file_version="brain.Event:2")
        except OSError:
            self._file.close()
            raise

    def add(self, summary: Summary, step: int = 0) -> None:
        self._add(summary=summary, step=step)

    def close(self) -> None:
        self._file.close()

    def _add(self, **fields: Any) -> None:
        self._records.write(Event(wall_time=time.time(), **fields).SerializeToString())


def _flat(config: TrialConfig) -> dict[str, Any]:
    """Numbers, strings and booleans, as TensorBoard needs: lists become text and their lengths."""
    flat: dict[str, Any] = {}
    for name, value in config.to_dict().items():
        if isinstance(value, list):
            flat[name] = "-".join(map(str, value))
            flat[f"{name}.length"] = len(value)
        else:
            flat[name] = value
    return flat
