"""Predictions of a network on a table of sequences."""

from __future__ import annotations

import torch
from torch import Tensor

from crnn_search.data.sequences import Digits, SequenceTable
from crnn_search.training.model import CRNN

ENCODE_CHUNK = 512
"""Images that are encoded at once: few enough for a CPU's cache."""

DECODE_CHUNK = 1024
"""Sequences that are decoded at once."""


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
    distinct, row_of = _distinct_images(table, len(digits.images))
    gates = torch.cat(
        [
            model.encode(digits.images.index_select(0, chunk.to(device)))
            for chunk in distinct.split(ENCODE_CHUNK)
        ]
    )
    sums = torch.empty(len(table))
    for batch in table.batches(DECODE_CHUNK, by_length=True):
        rows = gates[row_of[batch.images].to(device)]
        sums[batch.order] = model.decode(rows, batch.batch_sizes).cpu()
    return sums


def _distinct_images(table: SequenceTable, count: int) -> tuple[Tensor, Tensor]:
    """The images that a table uses, sorted, `(U,)`, and for each of `count` images its row there.

    The row of an image that the table does not use has no meaning.
    """
    steps = torch.arange(table.indices.shape[1])
    used = torch.zeros(count, dtype=torch.bool)
    used[table.indices[steps[None, :] < table.lengths[:, None]].long()] = True
    return used.nonzero().flatten(), used.cumsum(0) - 1
