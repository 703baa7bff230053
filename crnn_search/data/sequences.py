"""Sequences of digits as index tables into one image tensor, never materialised.

Shapes: `B` sequences of a batch, `S` sequences of a table, `T` time steps, `N` real images of a
batch (no padding), `I` images of a data set, `P` images of a pool. A batch is *packed*, as in
PyTorch's `PackedSequence`: its sequences are sorted by descending length and its images are listed
time step by time step, so that no padding is ever gathered, encoded or masked.
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

DRAW_CHUNK = 16_384
"""Sequences of a table that are drawn at once, so that temporary tensors stay small."""


@dataclass(frozen=True)
class Digits:
    """Images and the digit that each shows, uint8 `(I,)`.

    images: uint8 `(I, H, W)`, in grey, or `(I, C, H, W)`. Those of MNIST are `(I, 28, 28)`.
    """

    images: Tensor
    labels: Tensor

    @property
    def pixels(self) -> Tensor:
        """The images as networks take them, uint8 `(I, C, H, W)`."""
        return self.images if self.images.ndim == 4 else self.images.unsqueeze(1)

    def to(self, device: torch.device) -> Digits:
        """The same digits on `device`."""
        return Digits(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Batch:
    """A packed batch.

    images: indices of its real images, time step by time step, int64 `(N,)`.
    batch_sizes: number of sequences that are active at each time step, int64 `(T,)`, on the CPU.
    targets: the sums, float32 `(B,)`, longest sequence first.
    order: the row of each sequence in the table, int64 `(B,)`.
    """

    images: Tensor
    batch_sizes: Tensor
    targets: Tensor
    order: Tensor


@dataclass(frozen=True)
class SequenceTable:
    """`S` sequences.

    indices: images, int32 `(S, T)`; those at or beyond a sequence's length are padding, and zero.
    lengths: int64 `(S,)`. sums: float32 `(S,)`.
    """

    indices: Tensor
    lengths: Tensor
    sums: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    def batches(self, size: int, *, by_length: bool = False) -> Iterator[Batch]:
        """Packed batches of `size` sequences; the last one may be smaller.

        by_length: in order of descending length instead of the table's order, which needs fewer
        time steps in all.
        """
        rows = self.lengths.argsort(descending=True, stable=True) if by_length else None
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            yield self._pack(torch.arange(start, stop) if rows is None else rows[start:stop])

    def _pack(self, rows: Tensor) -> Batch:
        order, active = pack_order(self.lengths[rows])
        order = rows[order]
        images = self.indices[order, : len(active)].T[active]
        return Batch(images.long(), active.sum(1), self.sums[order], order)


def pack_order(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """How sequences of these lengths, int64 `(B,)`, each at least 1, are packed.

    Returns their order by descending length, int64 `(B,)`, and which of them, in that order, are
    active at each time step, bool `(T, B)`.
    """
    descending, order = lengths.sort(descending=True, stable=True)
    steps = torch.arange(int(descending[0]), device=lengths.device)
    return order, steps[:, None] < descending[None, :]


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
    """Validation images of each digit: one in six, by largest remainder."""
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
    for start in range(0, len(lengths), DRAW_CHUNK):
        rows = slice(start, start + DRAW_CHUNK)
        padding = torch.arange(max_length)[None, :] >= lengths[rows, None]
        draws = torch.randint(len(pool), padding.shape, generator=generator)
        drawn = pool[draws].masked_fill_(padding, 0)
        indices[rows] = drawn
        sums[rows] = labels[drawn].float().masked_fill_(padding, 0.0).sum(1)
    return SequenceTable(indices, lengths, sums)


def training_table(
    pool: Tensor, labels: Tensor, sequences: int, max_length: int, seed: int, epoch: int
) -> SequenceTable:
    """The training sequences of one epoch, drawn from (`seed`, `epoch`).

    Lengths cycle through 1..`max_length` instead of being drawn, so that batches have few shapes:
    kernels are prepared, and CUDA graphs captured, for each shape.
    """
    generator = torch.Generator().manual_seed(derive_seed("train", seed, epoch))
    lengths = torch.arange(sequences) % max_length + 1
    return _fill(lengths, pool, labels, max_length, generator)


def validation_table(labels: Tensor, max_digits: int) -> SequenceTable:
    """The fixed sequences of validation images that every trial is validated on."""
    _, pool = split_images(labels)
    return draw_table(pool, labels, VALIDATION_SEQUENCES, max_digits, derive_seed("validation"))


def testing_table(labels: Tensor, max_digits: int) -> SequenceTable:
    """The fixed sequences of test images that only the final report reads."""
    pool = torch.arange(TRAINING_IMAGES, len(labels))
    return draw_table(pool, labels, TEST_SEQUENCES, max_digits, derive_seed("test"))


def shared_tensor(array: Any) -> Tensor:
    """A tensor that shares the memory of an array in Ray's object store."""
    with warnings.catch_warnings():
        # The store's memory is read-only; nothing writes to images or labels.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(array))
