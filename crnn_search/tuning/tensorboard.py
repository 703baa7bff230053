"""TensorBoard's event files of a stage: a folder for each trial."""

from __future__ import annotations

import functools
import math
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import scalar, text

from crnn_search.data.running_sheet import Row, chosen, running_sheet
from crnn_search.data.sequences import SequenceTable
from crnn_search.data.task import Task
from crnn_search.spaces.space import SearchSpace, to_yaml
from crnn_search.storage.trial import Trial, TrialRecord
from crnn_search.training.metrics import EpochMetrics
from crnn_search.tuning import hparams

PICTURE = "validation/running prediction"


class TensorBoard:
    """Writes what a trial is with its first epoch, scalars with every one, figures at its end.

    Nothing reads these files but TensorBoard: if one cannot be written, the user is told once, and
    no more are written.

    Not by PyTorch's `FileWriter`: it writes in a thread, which prints a traceback if the disk is
    full. Nor by `SummaryWriter.add_hparams`: it writes hyperparameters to a second file, and once
    TensorBoard has seen the newer file of a folder it no longer reads what the older one gets.
    """

    def __init__(
        self, folder: Path, space: SearchSpace, task: Task, note: Callable[[str], None]
    ) -> None:
        """folder: of the stage, in that of the run. note: tells the user."""
        self._folder = folder
        self._space = space
        self._task = task
        self._note = note
        self._files: dict[Path, Path] = {}
        self._failed = False

    def write(
        self, trial: Trial, metrics: EpochMetrics, running: Sequence[Sequence[float]] | None = None
    ) -> None:
        """Write an epoch of a trial.

        running: the prediction after each image of the sequences `chosen` from the validation
        table; they are shown if the epoch is a rung.
        """
        first = metrics.epoch == 1
        events = [Event(summary=found) for found in self._about(trial)] if first else []
        events += [Event(step=metrics.epoch, summary=found) for found in _scalars(metrics)]
        if running is not None and self._is_rung(trial, metrics.epoch):
            events.append(Event(step=metrics.epoch, summary=self._picture(running)))
        self._try(trial.name, events)

    def ended(self, record: TrialRecord) -> None:
        """Write how a trial ended: it writes no more."""
        values = hparams.figures(record, self._space.shape)
        summaries = [scalar(tag, value) for tag, value in values.items()]
        summaries.append(hparams.session_end(record))
        name = record.trial.name
        self._try(name, [Event(step=record.epochs, summary=found) for found in summaries])
        self._files.pop(self._folder / name, None)

    def _about(self, trial: Trial) -> list[Summary]:
        """What a trial is: all its hyperparameters, and the searched ones for HParams."""
        return [
            hparams.session_start(self._space, trial),
            text("configuration", _code(_yaml(trial.config.to_dict()))),
        ]

    def _is_rung(self, trial: Trial, epoch: int) -> bool:
        """Whether a trial may be stopped after an epoch, or ends there."""
        rung = trial.grace_epochs
        while rung < epoch:
            rung *= self._space.search.reduction_factor
        return epoch in {rung, trial.epochs}

    @functools.cached_property
    def _chosen(self) -> SequenceTable:
        return chosen(self._task.validation_table())

    def _picture(self, running: Sequence[Sequence[float]]) -> Summary:
        table, rows = self._chosen, []
        for place, values in enumerate(running):
            images = self._task.images[table.indices[place, : len(values)].long()].cpu().numpy()
            rows.append(Row(images, values, f"true {table.targets[place].item():.4g}"))
        image = running_sheet(rows)
        metadata = SummaryMetadata(
            plugin_data=SummaryMetadata.PluginData(plugin_name="images"),
            summary_description="Below each image the prediction after it.",
        )
        value = Summary.Value(
            tag=PICTURE, metadata=metadata, image=Summary.Image(encoded_image_string=image)
        )
        return Summary(value=[value])

    def _try(self, trial: str, events: list[Event]) -> None:
        if self._failed:
            return
        try:
            if not self._files and not list(self._folder.parent.glob("events.*")):
                self._append(self._folder.parent, [Event(summary=it) for it in self._of_run()])
            self._append(self._folder / trial, events)
        except OSError as error:
            self._failed = True
            self._note(f"cannot write TensorBoard's files in {self._folder}: {error.strerror}")

    def _of_run(self) -> list[Summary]:
        """What all trials have in common."""
        return [
            hparams.experiment(self._space),
            text("search space", _code(to_yaml(self._space))),
        ]

    def _append(self, folder: Path, events: list[Event]) -> None:
        """Append to the event file that this session has in a folder."""
        if folder not in self._files:
            self._files[folder] = self._new_file(folder)
            events = [Event(file_version="brain.Event:2"), *events]
        with self._files[folder].open("ab") as file:
            records = RecordWriter(file)
            for event in events:
                event.wall_time = time.time()
                records.write(event.SerializeToString())

    def _new_file(self, folder: Path) -> Path:
        """The event file of a folder in this session; the folder exists then."""
        for path in (self._folder.parent, self._folder, folder):
            path.mkdir(exist_ok=True)  # not the run's folder, if that is gone
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        return folder / name


def _scalars(metrics: EpochMetrics) -> list[Summary]:
    """The metrics of an epoch; TensorBoard groups them by what is before the slash."""
    values = {
        "validation/rmse": metrics.validation_rmse,
        "validation/exact_sum_rate": metrics.exact_sum_rate,
        "train/rmse": math.sqrt(metrics.train_loss) if metrics.train_loss >= 0 else math.nan,
        "train/learning_rate": metrics.learning_rate,
        "system/sequences_per_s": metrics.sequences_per_s,
        "system/peak_memory_mb": metrics.peak_memory_mb,
    }
    return [scalar(tag, value) for tag, value in values.items() if value is not None]


def _yaml(config: dict[str, Any]) -> str:
    return yaml.safe_dump(config, sort_keys=False, default_flow_style=None)


def _code(source: str) -> str:
    """A text as TensorBoard's Markdown shows it unchanged."""
    return "".join(f"    {line}\n" for line in source.splitlines())
