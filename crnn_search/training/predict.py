"""Predictions of a network on a table of sequences."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from crnn_search.data.sequences import Batch, SequenceTable
from crnn_search.hyperparameters import MNIST_SHAPE
from crnn_search.training.model import CRNN

CPU_CHUNKS = (512, 1024)
"""Images of 28 × 28 pixels encoded, and sequences of eight images decoded, at once on a CPU: few
enough for its cache. Of larger images, and of longer sequences, fewer."""

USUAL_LENGTH = 8

GPU_CHUNKS = (2048, 8192)
"""The same elsewhere, enough to fill a GPU: about 0.8 GB for 64 channels of 28 × 28 pixels, and
0.4 GB for a GRU of 256. Not measured."""


def predict(model: CRNN, images: Tensor, table: SequenceTable) -> Tensor:
    """Predictions, float32 `(S,)` on the CPU, in the table's order.

    Runs in evaluation mode, and leaves the model in the mode that it had. Encodes each distinct
    image once: images repeat within and between sequences.

    images: uint8 `(I, C, H, W)`, on the model's device.
    """
    with _evaluated(model):
        predictions = torch.empty(len(table), device=images.device)
        for batch, gates in _encoded(model, images, table):
            predictions[batch.order.to(images.device)] = model.decode(gates, batch.batch_sizes)
        return predictions.cpu()


def predict_running(model: CRNN, images: Tensor, table: SequenceTable) -> Tensor:
    """The prediction after each image of a sequence, float32 `(S, T)` on the CPU.

    NaN after a sequence's end. `T` is the width of the table. Otherwise as `predict`.
    """
    with _evaluated(model):
        predictions = torch.full(table.indices.shape, math.nan)
        for batch, gates in _encoded(model, images, table):
            running = model.decode_running(gates, batch.batch_sizes).cpu()
            active = torch.arange(len(batch.order)) < batch.batch_sizes[:, None]
            by_step = torch.full(active.shape, math.nan)
            by_step[active] = running
            predictions[batch.order, : len(by_step)] = by_step.T
        return predictions


@contextlib.contextmanager
def _evaluated(model: CRNN) -> Iterator[None]:
    """A block without gradients, in which a model is in evaluation mode."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def _encoded(model: CRNN, images: Tensor, table: SequenceTable) -> Iterator[tuple[Batch, Tensor]]:
    """Batches of a table, and what `model.encode` gives for each one's images, `(N, 3G)`."""
    device = images.device
    images_at_once, sequences_at_once = CPU_CHUNKS if device.type == "cpu" else GPU_CHUNKS
    size = model.shape.rows * model.shape.columns
    images_at_once = max(1, images_at_once * MNIST_SHAPE.rows * MNIST_SHAPE.columns // size)
    distinct, row_of = _distinct_images(table, len(images))
    gates = torch.empty(len(distinct), 3 * model.spec.gru_sizes[0], device=device)
    for start in range(0, len(distinct), images_at_once):
        rows = slice(start, start + images_at_once)
        gates[rows] = model.encode(images.index_select(0, distinct[rows].to(device)))
    longest = max(USUAL_LENGTH, table.indices.shape[1])
    sequences_at_once = max(1, sequences_at_once * USUAL_LENGTH // longest)
    for batch in table.batches(sequences_at_once, by_length=True):
        yield batch, gates[row_of[batch.images].to(device)]


def _distinct_images(table: SequenceTable, count: int) -> tuple[Tensor, Tensor]:
    """The images that a table uses, sorted, `(U,)`, and for each of `count` images its row there.

    The row of an image that the table does not use has no meaning.
    """
    steps = torch.arange(table.indices.shape[1])
    used = torch.zeros(count, dtype=torch.bool)
    used[table.indices[steps[None, :] < table.lengths[:, None]].long()] = True
    return used.nonzero().flatten(), used.cumsum(0) - 1
