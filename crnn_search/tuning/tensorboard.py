"""TensorBoard's event files of a stage: a folder for each trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.tensorboard import FileWriter
from torch.utils.tensorboard.summary import hparams, scalar

from crnn_search.hyperparameters import TrialConfig
from crnn_search.storage.trial import METRIC, Trial
from crnn_search.training.metrics import EpochMetrics

SCALARS = (
    METRIC, "exact_sum_rate", "train_loss", "learning_rate", "sequences_per_s", "peak_memory_mb",
)  # fmt: skip


class TensorBoard:
    """Writes each trial's hyperparameters with its first epoch, and scalars with every one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, FileWriter] = {}

    def write(self, trial: Trial, metrics: EpochMetrics) -> None:
        """Write an epoch of a trial."""
        if trial.name not in self._writers:
            self._writers[trial.name] = writer = FileWriter(str(self._folder / trial.name))
            if metrics.epoch == 1:
                # Not by `SummaryWriter.add_hparams`: it writes them to a second file, and once
                # TensorBoard has seen the newer file of a folder it no longer reads what the older
                # one gets.
                for summary in hparams(_flat(trial.config), {METRIC: 0.0}):
                    writer.add_summary(summary)
        writer, values = self._writers[trial.name], metrics.to_dict()
        for name in SCALARS:
            if values[name] is not None:
                writer.add_summary(scalar(name, values[name]), metrics.epoch)
        writer.flush()  # a crash loses nothing that was displayed

    def close(self, name: str) -> None:
        """Close the file of a trial that ended."""
        if writer := self._writers.pop(name, None):
            writer.close()


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
