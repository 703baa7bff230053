"""Predictions of a network on a table of sequences."""

from __future__ import annotations

import torch
from torch import Tensor

from crnn_search.data.sequences import Digits, SequenceTable
from crnn_search.hyperparameters import MNIST_SHAPE
from crnn_search.training.model import CRNN

CPU_CHUNKS = (512, 1024)
"""Images of 28 × 28 pixels encoded, and sequences decoded, at once on a CPU: few enough for its
cache. Of larger images fewer are encoded at once."""

GPU_CHUNKS = (2048, 8192)
"""The same elsewhere, enough to fill a GPU: about 0.8 GB for 64 channels of 28 × 28 pixels, and
0.4 GB for a GRU of 256. Not measured."""


def predict(model: CRNN, digits: Digits, table: SequenceTable) -> Tensor:
    """Predicted sums, float32 `(S,)` on the CPU, in the table's order.

    Runs in evaluation mode, and leaves the model in the mode that it had. Encodes each distinct
    image once: images repeat within and between sequences.

    digits: on the model's device.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            return _predict(model, digits, table)
    finally:
        model.train(was_training)


def _predict(model: CRNN, digits: Digits, table: SequenceTable) -> Tensor:
    device = digits.images.device
    images_at_once, sequences_at_once = CPU_CHUNKS if device.type == "cpu" else GPU_CHUNKS
    size = model.shape.rows * model.shape.columns
    images_at_once = max(1, images_at_once * MNIST_SHAPE.rows * MNIST_SHAPE.columns // size)
    distinct, row_of = _distinct_images(table, len(digits.images))
    gates = torch.empty(len(distinct), 3 * model.spec.gru_sizes[0], device=device)
    for start in range(0, len(distinct), images_at_once):
        rows = slice(start, start + images_at_once)
        gates[rows] = model.encode(digits.pixels.index_select(0, distinct[rows].to(device)))
    sums = torch.empty(len(table), device=device)
    for batch in table.batches(sequences_at_once, by_length=True):
        packed = gates[row_of[batch.images].to(device)]
        sums[batch.order.to(device)] = model.decode(packed, batch.batch_sizes)
    return sums.cpu()


def _distinct_images(table: SequenceTable, count: int) -> tuple[Tensor, Tensor]:
    """The images that a table uses, sorted, `(U,)`, and for each of `count` images its row there.

    The row of an image that the table does not use has no meaning.
    """
    steps = torch.arange(table.indices.shape[1])
    used = torch.zeros(count, dtype=torch.bool)
    used[table.indices[steps[None, :] < table.lengths[:, None]].long()] = True
    return used.nonzero().flatten(), used.cumsum(0) - 1
