"""Sequences of digits as index tables into one image tensor, never materialised.

Shapes: `B` sequences of a batch, `S` sequences of a table, `T` time steps, `N` real images of a
batch (no padding). A batch is *packed*: its sequences are sorted by falling length and its images
are listed time step by time step, which is the order that PyTorch's packed GRU reads, so that no
blank image is ever gathered, encoded or masked.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

TRAINING_IMAGES = 60_000
"""Images 0..59,999 are MNIST's training images, 60,000..69,999 its test images."""

VALIDATION_SEQUENCES = 20_000
TEST_SEQUENCES = 60_000
SPLIT_SEED = 20_160_414

DRAWN_AT_ONCE = 16_384
"""Sequences of a table that are drawn together: what that needs beside the table is small."""


@dataclass(frozen=True)
class Digits:
    """Images (uint8, `(I, 28, 28)`) and the digit that each shows (uint8, `(I,)`)."""

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Digits:
        """The same digits on `device`."""
        return Digits(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Batch:
    """A packed batch.

    images: indices of its real images, time step by time step, int64 `(N,)`.
    batch_sizes: how many sequences are still alive at each time step, int64 `(T,)`, on the CPU.
    targets: the sums, float32 `(B,)`, longest sequence first.
    order: where each sequence stood in the table, int64 `(B,)`.
    """

    images: Tensor
    batch_sizes: Tensor
    targets: Tensor
    order: Tensor


@dataclass(frozen=True)
class SequenceTable:
    """`S` sequences.

    indices: images, int32 `(S, T)`. lengths: int64 `(S,)`. sums: float32 `(S,)`.

    Indices at or beyond a sequence's length are zero and mean nothing.
    """

    indices: Tensor
    lengths: Tensor
    sums: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    def batches(self, size: int, *, by_length: bool = False) -> Iterator[Batch]:
        """Packed batches of `size` sequences, the last one maybe smaller.

        by_length: take the sequences in order of falling length instead of the table's order,
            which leaves fewer time steps in all where the order does not matter.
        """
        rows = self.lengths.argsort(descending=True, stable=True) if by_length else None
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            yield self._pack(torch.arange(start, stop) if rows is None else rows[start:stop])

    def _pack(self, rows: Tensor) -> Batch:
        lengths, falling = self.lengths[rows].sort(descending=True, stable=True)
        order = rows[falling]
        steps = torch.arange(int(lengths[0]))
        alive = steps[:, None] < lengths[None, :]  # (T, B)
        images = self.indices[order, : len(steps)].T[alive]
        return Batch(images.long(), alive.sum(1), self.sums[order], order)


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on all `parts` and is the same in every process."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def split_images(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Split MNIST's training images into 50,000 for training and 10,000 for validation.

    Stratified by digit, the same in every process. Returns two sorted int64 index tensors.
    """
    labels = labels[:TRAINING_IMAGES]
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    training, validation = [], []
    for digit, share in enumerate(_validation_shares(labels)):
        images = (labels == digit).nonzero().flatten()
        images = images[torch.randperm(len(images), generator=generator)]
        validation.append(images[:share])
        training.append(images[share:])
    return torch.cat(training).sort().values, torch.cat(validation).sort().values


def _validation_shares(labels: Tensor) -> list[int]:
    """How many images of each digit are for validation: one in six, by largest remainder."""
    exact = torch.bincount(labels.long(), minlength=10).double() / 6
    shares = exact.floor().long()
    missing = round(float(exact.sum())) - int(shares.sum())
    shares[(exact - shares).argsort(descending=True)[:missing]] += 1
    return [int(share) for share in shares]


def draw_table(
    pool: Tensor, labels: Tensor, sequences: int, max_length: int, seed: int
) -> SequenceTable:
    """Draw sequences: lengths uniform in 1..`max_length`, images from `pool` with replacement.

    pool: image indices, int64 `(P,)`. labels: the digit of every image, `(I,)`.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, max_length + 1, (sequences,), generator=generator)
    return _fill(lengths, pool, labels, max_length, generator)


def _fill(
    lengths: Tensor, pool: Tensor, labels: Tensor, max_length: int, generator: torch.Generator
) -> SequenceTable:
    indices = torch.empty(len(lengths), max_length, dtype=torch.int32)
    sums = torch.empty(len(lengths))
    for start in range(0, len(lengths), DRAWN_AT_ONCE):
        rows = slice(start, start + DRAWN_AT_ONCE)
        blank = torch.arange(max_length)[None, :] >= lengths[rows, None]
        draws = torch.randint(len(pool), blank.shape, generator=generator)
        drawn = pool[draws].masked_fill_(blank, 0)
        indices[rows] = drawn
        sums[rows] = labels[drawn].float().masked_fill_(blank, 0.0).sum(1)
    return SequenceTable(indices, lengths, sums)


def training_table(
    pool: Tensor, labels: Tensor, sequences: int, max_length: int, seed: int, epoch: int
) -> SequenceTable:
    """The sequences of one epoch, drawn anew from (`seed`, `epoch`).

    Lengths take turns instead of being drawn: batches then hold the same number of images, or one
    of a few, and kernels are prepared, and graphs captured, for a few shapes only.
    """
    generator = torch.Generator().manual_seed(derive_seed("train", seed, epoch))
    lengths = torch.arange(sequences) % max_length + 1
    return _fill(lengths, pool, labels, max_length, generator)


def validation_table(labels: Tensor, max_digits: int) -> SequenceTable:
    """The fixed sequences of validation images that every trial is measured on."""
    _, pool = split_images(labels)
    return draw_table(pool, labels, VALIDATION_SEQUENCES, max_digits, derive_seed("validation"))


def testing_table(labels: Tensor, max_digits: int) -> SequenceTable:
    """The fixed sequences of test images that only the final report reads."""
    pool = torch.arange(TRAINING_IMAGES, len(labels))
    return draw_table(pool, labels, TEST_SEQUENCES, max_digits, derive_seed("test"))


def shared_tensor(array: Any) -> torch.Tensor:
    """A tensor over an array of the object store, without a copy."""
    with warnings.catch_warnings():
        # The store's memory is read-only; nothing here writes to images or labels.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(array))
