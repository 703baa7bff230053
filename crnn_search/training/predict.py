"""Predictions of a network on a table of sequences."""

from __future__ import annotations

import torch
from torch import Tensor

from crnn_search.data.sequences import Digits, SequenceTable
from crnn_search.training.forward import _add_up, _encode, _project
from crnn_search.training.model import CRNN

ENCODING_CHUNK = 512
"""Images encoded at once in evaluation: small enough to stay in a CPU's cache."""


ADDING_CHUNK = 1024
"""Sequences added up at once in evaluation."""


def predict(
    model: CRNN, digits: Digits, table: SequenceTable, *, precision: str = "float32"
) -> Tensor:
    """Predicted sums, float32 `(S,)` on the CPU, in the table's order.

    Encodes each distinct image once: images repeat within and between sequences, and a network in
    evaluation mode gives an image the same features wherever it stands.
    """
    was_training = model.training
    model.eval()
    device = digits.images.device
    on_cpu = device.type == "cpu"
    sums = torch.empty(len(table))
    with torch.inference_mode():
        distinct, place = _distinct_images(table, len(digits.images))
        gates = torch.cat(
            [
                _project(
                    model,
                    _encode(model, digits.images.index_select(0, chunk.to(device)), precision),
                    precision,
                    on_cpu,
                )
                for chunk in distinct.split(ENCODING_CHUNK)
            ]
        )
        for batch in table.batches(ADDING_CHUNK, by_length=True):
            rows = gates[place[batch.images].to(device)]
            sums[batch.order] = _add_up(model, rows, batch.batch_sizes, on_cpu).cpu()
    model.train(was_training)
    return sums


def _distinct_images(table: SequenceTable, count: int) -> tuple[Tensor, Tensor]:
    """The images a table uses, sorted, `(U,)`, and of each of `count` images its place there."""
    steps = torch.arange(table.indices.shape[1])
    used = torch.zeros(count, dtype=torch.bool)
    used[table.indices[steps[None, :] < table.lengths[:, None]].long()] = True
    return used.nonzero().flatten(), used.cumsum(0) - 1
