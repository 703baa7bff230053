"""MNIST's images, their splits, and the tables of sequences that are drawn from them.

Shapes: `S` sequences of a table, `T` time steps, `I` images of a data set, `P` images of a pool.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from crnn_search.data.sequences import SequenceTable, Shared, derive_seed, joined
from crnn_search.data.task import Draw

TRAINING_IMAGES = 60_000
"""Images 0..59,999 are MNIST's training images, 60,000..69,999 its test images."""

MEAN_DIGIT = 267_236 / TRAINING_IMAGES
"""The mean of the digits of MNIST's training images."""

VALIDATION_SEQUENCES = 20_000
TEST_SEQUENCES = 60_000
LONGER_SEQUENCES = 2_000
"""Of each length beyond the task's."""

SPLIT_SEED = 20_160_414

DRAW_CHUNK = 16_384
"""Sequences of a table that are drawn at once, so that temporary tensors stay small."""


@dataclass(frozen=True)
class Digits(Shared):
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


def training_table(pool: Tensor, labels: Tensor, draw: Draw) -> SequenceTable:
    """The training sequences of one epoch.

    Lengths cycle through 1..`draw.longest` instead of being drawn, so that batches have few shapes:
    kernels are prepared, and CUDA graphs captured, for each shape.

    pool: indices of the images to draw from, with replacement, int64 `(P,)`. labels: the digit of
    every image, `(I,)`.
    """
    generator = torch.Generator().manual_seed(derive_seed("train", draw.seed, draw.epoch))
    if draw.reuse > 1:
        return _reusing_table(pool, labels, draw, generator)
    lengths = torch.arange(draw.sequences) % draw.longest + 1
    return _fill(lengths, pool, labels, draw.longest, generator)


def _reusing_table(
    pool: Tensor, labels: Tensor, draw: Draw, generator: torch.Generator
) -> SequenceTable:
    """Each batch is `draw.reuse` random partitions of its images into sequences of equal lengths.

    Only whole partitions: up to `draw.reuse` - 1 sequences less than `draw` asks for, but one
    partition at least.
    """
    of_partition = torch.arange(max(1, draw.sequences // draw.reuse)) % draw.longest + 1
    indices, lengths = [], []
    for of_batch in of_partition.split(draw.batch_size // draw.reuse):
        images = pool[torch.randint(len(pool), (int(of_batch.sum()),), generator=generator)]
        real = torch.arange(draw.longest) < of_batch[:, None]
        for _ in range(draw.reuse):
            order = torch.randperm(len(images), generator=generator)
            partition = torch.zeros(len(of_batch), draw.longest, dtype=torch.int32)
            partition[real] = images[order].int()
            indices.append(partition)
            lengths.append(of_batch)
    table, counts = torch.cat(indices), torch.cat(lengths)
    padding = torch.arange(draw.longest) >= counts[:, None]
    sums = labels[table.long()].float().masked_fill_(padding, 0.0).sum(1)
    return SequenceTable(table, counts, sums, reuse=draw.reuse)


def validation_table(labels: Tensor, max_digits: int) -> SequenceTable:
    """The fixed sequences of validation images that every trial is validated on."""
    _, pool = split_images(labels)
    return draw_table(pool, labels, VALIDATION_SEQUENCES, max_digits, derive_seed("validation"))


def testing_table(labels: Tensor, max_digits: int) -> SequenceTable:
    """The fixed sequences of test images that only the final report reads."""
    pool = torch.arange(TRAINING_IMAGES, len(labels))
    return draw_table(pool, labels, TEST_SEQUENCES, max_digits, derive_seed("test"))


def longer_table(labels: Tensor, max_digits: int) -> SequenceTable:
    """Fixed sequences of test images that are longer than those of the task.

    `LONGER_SEQUENCES` of each length up to twice `max_digits`, and of three and four times as many,
    each length drawn with its own seed.
    """
    pool = torch.arange(TRAINING_IMAGES, len(labels))
    tables = []
    for length in (*range(max_digits + 1, 2 * max_digits + 1), 3 * max_digits, 4 * max_digits):
        generator = torch.Generator().manual_seed(derive_seed("test", "longer", length))
        lengths = torch.full((LONGER_SEQUENCES,), length)
        tables.append(_fill(lengths, pool, labels, length, generator))
    return joined(tables)
