"""What every engine of the benchmark does: the same two trials, side by side.

A third as many sequences are for validation as for training, and the validation images shrink with
them: the share of the work that repeats an image is then that of a search, whose 60,000 training
sequences stand beside 20,000 of 10,000 validation images.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crnn_search.data import mnist
from crnn_search.data.sequences import (
    Digits,
    SequenceTable,
    derive_seed,
    draw_table,
    split_images,
    training_table,
)
from crnn_search.hyperparameters import MNIST_CRNN_2016, TrialConfig

MAX_DIGITS = 8

NETWORKS = {
    "2016 network": MNIST_CRNN_2016.to_dict() | {"batch_size": 128, "dropout": 0.0},
    "16-32-64 + GRU 64": {"conv_channels": [16, 32, 64], "gru_sizes": [64], "batch_size": 128},
}
"""Configurations. Dropout is left out: no two engines draw the same, and pairs shall be close."""

SIZES = {"2016 network": (3840, 4), "16-32-64 + GRU 64": (2560, 2)}
"""Training sequences of an epoch, and epochs. The smaller network has more of them: one takes the
fastest engine less than a second, which any hiccup of the machine outweighs."""


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
        """The configuration, checked."""
        return TrialConfig.from_dict(self.config)

    def digits(self) -> Digits:
        """MNIST."""
        return mnist.load(Path(self.data_dir) if self.data_dir else None)


@dataclass(frozen=True)
class Trained:
    """One trial: `time.time()` at the end of each epoch, and validation RMSE after each."""

    ends: list[float]
    rmse: list[float]

    @property
    def epoch_s(self) -> float:
        """Seconds an epoch takes. The first prepares kernels and counts as start-up."""
        return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)


def epochs_per_hour(trials: Sequence[Trained]) -> float:
    """Epochs of all trials that run side by side."""
    return sum(3600 / trial.epoch_s for trial in trials)


def start_s(trials: Sequence[Trained], began: float) -> float:
    """Seconds from the start of the work that were no training: processes, imports, warm-up."""
    return statistics.fmean(trial.ends[0] - trial.epoch_s - began for trial in trials)


def tables(
    digits: Digits, work: Work, seed: int
) -> tuple[Callable[[int], SequenceTable], SequenceTable]:
    """A trial's training sequences by epoch (0, 1, ...), and its validation sequences."""
    pool, _ = split_images(digits.labels)

    def training(epoch: int) -> SequenceTable:
        return training_table(pool, digits.labels, work.sequences, MAX_DIGITS, seed, epoch)

    return training, validation(digits.labels, work.sequences)


def validation(labels: Tensor, sequences: int) -> SequenceTable:
    """The validation sequences that belong to so many training sequences."""
    count = sequences // 3
    _, images = split_images(labels)
    images = images[: max(1, count // 2)]
    return draw_table(images, labels, count, MAX_DIGITS, derive_seed("validation"))


def padded(digits: Digits, table: SequenceTable, rows: slice) -> Tensor:
    """Images in [0, 1], float `(B, T, 1, 28, 28)`, blank where a sequence has ended."""
    images = digits.images[table.indices[rows].long()].unsqueeze(2).float() / 255
    blank = torch.arange(images.shape[1])[None] >= table.lengths[rows, None]
    return images.masked_fill(blank[:, :, None, None, None], 0.0)


def side_by_side(train: Callable[..., Trained], work: Work, *arguments: Any) -> list[Trained]:
    """Train each seed in a fresh process of its own."""
    with ProcessPoolExecutor(len(work.seeds), get_context("spawn")) as pool:
        waiting = [pool.submit(train, work, seed, *arguments) for seed in work.seeds]
        return [future.result() for future in waiting]
