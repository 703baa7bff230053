"""What every engine of the benchmark does: the same two trials, side by side.

There are a third as many validation sequences as training sequences, and the validation images
shrink with them. So images repeat as often as in a search, which validates on 20,000 sequences of
10,000 images after training on 60,000 sequences.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from crnn_search.data import mnist
from crnn_search.data.digits import Digits, draw_table, split_images, training_table
from crnn_search.data.sequences import SequenceTable, derive_seed
from crnn_search.data.task import Draw
from crnn_search.hyperparameters import MNIST_CRNN_2016, Arithmetic, TrialConfig
from crnn_search.training.device import supports_bfloat16

MAX_DIGITS = 8

NETWORKS = {
    "2016 network": MNIST_CRNN_2016.to_dict() | {"batch_size": 128, "dropout": 0.0},
    "16-32-64 + GRU 64": {"conv_channels": [16, 32, 64], "gru_sizes": [64], "batch_size": 128},
}
"""Configurations. Without dropout: engines draw it differently, and pairs should be close."""

SIZES = {"2016 network": (3840, 4), "16-32-64 + GRU 64": (2560, 2)}
"""Training sequences of an epoch, and epochs. The smaller network has more epochs: the fastest
engine needs less than a second for one, too short to be measured well."""


@dataclass(frozen=True)
class Work:
    """Two trials of one configuration, trained at once, one core each.

    config: flat configuration. seeds: of weights and sequences, one a trial.
    sequences: for training, an epoch. data_dir: folder of MNIST's files, or None.
    """

    config: dict[str, Any]
    seeds: tuple[int, int]
    epochs: int
    sequences: int
    data_dir: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The work as a plain mapping."""
        return asdict(self)

    def spec(self) -> TrialConfig:
        """The configuration, validated."""
        return TrialConfig.from_dict(self.config)

    def digits(self) -> Digits:
        """MNIST."""
        return mnist.load(Path(self.data_dir) if self.data_dir else None)


@dataclass(frozen=True)
class Trained:
    """One trial: `time.time()` at the end of each epoch, and the validation RMSE of each."""

    ends: list[float]
    validation_rmse: list[float]

    @property
    def epoch_s(self) -> float:
        """Seconds an epoch takes. The first prepares kernels and counts as start-up."""
        return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)


def epochs_per_hour(trials: Sequence[Trained]) -> float:
    """Epochs of all trials that run side by side."""
    return sum(3600 / trial.epoch_s for trial in trials)


def start_s(trials: Sequence[Trained], start: float) -> float:
    """Mean seconds before a trial trains: processes, imports, warm-up."""
    return statistics.fmean(trial.ends[0] - trial.epoch_s - start for trial in trials)


def best_arithmetic(device: torch.device) -> Arithmetic:
    """What a search chooses if all nodes have this device and, on a CPU, a C compiler."""
    precision: Literal["float32", "bfloat16"]
    precision = "bfloat16" if supports_bfloat16(device) else "float32"
    return Arithmetic(precision, cpu_kernels=device.type == "cpu")


def tables(
    digits: Digits, work: Work, seed: int
) -> tuple[Callable[[int], SequenceTable], SequenceTable]:
    """A trial's training sequences by epoch (0, 1, ...), and its validation sequences."""
    pool, _ = split_images(digits.labels)
    batch_size = work.spec().training.batch_size

    def training(epoch: int) -> SequenceTable:
        draw = Draw(work.sequences, MAX_DIGITS, seed, epoch, batch_size)
        return training_table(pool, digits.labels, draw)

    return training, validation(digits.labels, work.sequences)


def validation(labels: Tensor, sequences: int) -> SequenceTable:
    """The validation sequences for `sequences` training sequences."""
    count = sequences // 3
    _, images = split_images(labels)
    images = images[: max(1, count // 2)]
    return draw_table(images, labels, count, MAX_DIGITS, derive_seed("validation"))


def padded(digits: Digits, table: SequenceTable, rows: slice) -> Tensor:
    """Images in [0, 1], float `(B, T, 1, 28, 28)`, zero after the end of a sequence."""
    images = digits.images[table.indices[rows].long()].unsqueeze(2).float() / 255
    padding = torch.arange(images.shape[1])[None] >= table.lengths[rows, None]
    return images.masked_fill(padding[:, :, None, None, None], 0.0)


def side_by_side(train: Callable[..., Trained], work: Work, *arguments: Any) -> list[Trained]:
    """Train each seed in a fresh process of its own."""
    with ProcessPoolExecutor(len(work.seeds), get_context("spawn")) as pool:
        futures = [pool.submit(train, work, seed, *arguments) for seed in work.seeds]
        return [future.result() for future in futures]
