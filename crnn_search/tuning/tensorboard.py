"""TensorBoard's event files of a stage: a folder for each trial."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
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

    Not by PyTorch's `FileWriter`: it writes in a thread, which prints a traceback if the disk is
    full. Nor by `SummaryWriter.add_hparams`: it writes hyperparameters to a second file, and once
    TensorBoard has seen the newer file of a folder it no longer reads what the older one gets.
    """

    def __init__(self, folder: Path, note: Callable[[str], None]) -> None:
        """note: tells the user."""
        self._folder = folder
        self._note = note
        self._files: dict[str, Path] = {}
        self._failed = False

    def write(self, trial: Trial, metrics: EpochMetrics) -> None:
        """Write an epoch of a trial."""
        if self._failed:
            return
        try:
            self._write(trial, metrics)
        except OSError as error:
            self._failed = True
            self._note(f"cannot write TensorBoard's files in {self._folder}: {error.strerror}")

    def close(self, name: str) -> None:
        """A trial ended: it writes no more."""
        self._files.pop(name, None)

    def _write(self, trial: Trial, metrics: EpochMetrics) -> None:
        events, values = [], metrics.to_dict()
        if trial.name not in self._files:
            self._files[trial.name] = self._new_file(trial.name)
            events.append(Event(file_version="brain.Event:2"))
            if metrics.epoch == 1:
                found = hparams(_flat(trial.config), {METRIC: 0.0})
                events += [Event(summary=summary) for summary in found]
        events += [
            Event(step=metrics.epoch, summary=scalar(name, values[name]))
            for name in SCALARS
            if values[name] is not None
        ]
        with self._files[trial.name].open("ab") as file:
            records = RecordWriter(file)
            for event in events:
                event.wall_time = time.time()
                records.write(event.SerializeToString())

    def _new_file(self, trial: str) -> Path:
        """The event file of a trial in this session, in a folder that exists."""
        for folder in (self._folder.parent, self._folder, self._folder / trial):
            folder.mkdir(exist_ok=True)  # not the run's folder, if that is gone
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        return self._folder / trial / name


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
