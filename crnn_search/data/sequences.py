"""Sequences of images as index tables into one image tensor, never materialised.

Shapes: `B` sequences of a batch, `S` sequences of a table, `T` time steps, `N` real images of a
batch (no padding), `M` images that are encoded for it, `I` images of a data set. A batch is
*packed*, as in PyTorch's `PackedSequence`: its sequences are sorted by descending length and its
images are listed time step by time step, so that no padding is ever gathered, encoded or masked.
"""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Shared:
    """Is pickled with NumPy's arrays in place of tensors, whose memory Ray's processes share."""

    def __getstate__(self) -> dict[str, Any]:
        return {k: v.numpy() if isinstance(v, Tensor) else v for k, v in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            tensor = shared_tensor(value) if isinstance(value, np.ndarray) else value
            object.__setattr__(self, name, tensor)


@dataclass(frozen=True)
class Batch:
    """A packed batch.

    images: indices of the images to encode, int64 `(M,)`. Without `rows` they are its real images,
    time step by time step, and `M` is `N`.
    batch_sizes: number of sequences that are active at each time step, int64 `(T,)`, on the CPU.
    targets: floats `(B,)`, longest sequence first.
    order: the row of each sequence in the table, int64 `(B,)`.
    rows: of each real image, time step by time step, its place in `images`, int64 `(N,)`.
    """

    images: Tensor
    batch_sizes: Tensor
    targets: Tensor
    order: Tensor
    rows: Tensor | None = None


@dataclass(frozen=True)
class SequenceTable(Shared):
    """`S` sequences.

    indices: images, int32 `(S, T)`; those at or beyond a sequence's length are padding, and zero.
    lengths: int64 `(S,)`. targets: floats `(S,)`. groups: int64 `(S,)`, equal for sequences that
    belong together; None: what sequences have in common are their images. reuse: how often a batch
    has each of its images; if more than once, its batches are those of the size that it was drawn
    for, in its own order.
    """

    indices: Tensor
    lengths: Tensor
    targets: Tensor
    groups: Tensor | None = None
    reuse: int = 1

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

    def take(self, rows: Tensor) -> SequenceTable:
        """Some of the sequences. rows: bool `(S,)`, or int64 of any length."""
        groups = None if self.groups is None else self.groups[rows]
        return SequenceTable(self.indices[rows], self.lengths[rows], self.targets[rows], groups)

    def _pack(self, rows: Tensor) -> Batch:
        order, active = pack_order(self.lengths[rows])
        order = rows[order]
        images = self.indices[order, : len(active)].T[active]
        batch = Batch(images.long(), active.sum(1), self.targets[order], order)
        return batch if self.reuse == 1 else _encoded_once(batch, self.reuse)


def _encoded_once(batch: Batch, reuse: int) -> Batch:
    """A batch each of whose images is encoded once for the `reuse` places that it has.

    An image that was drawn `k` times has `k * reuse` places and is encoded `k` times, as without
    reuse: the number of images to encode depends on the batch's lengths alone.
    """
    images, places = batch.images.sort(stable=True)
    rows = torch.empty_like(places)
    rows[places] = torch.arange(len(places)) // reuse
    return dataclasses.replace(batch, images=images[::reuse], rows=rows)


def joined(tables: Sequence[SequenceTable]) -> SequenceTable:
    """All sequences of some tables, in order; their reuse of images is forgotten."""
    steps = max(table.indices.shape[1] for table in tables)
    indices = torch.zeros(sum(map(len, tables)), steps, dtype=torch.int32)
    start = 0
    for table in tables:
        indices[start : start + len(table), : table.indices.shape[1]] = table.indices
        start += len(table)
    groups = [table.groups for table in tables if table.groups is not None]
    return SequenceTable(
        indices,
        torch.cat([table.lengths for table in tables]),
        torch.cat([table.targets for table in tables]),
        torch.cat(groups) if groups else None,
    )


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


def shared_tensor(array: Any) -> Tensor:
    """A tensor that shares the memory of an array in Ray's object store."""
    with warnings.catch_warnings():
        # The store's memory is read-only; nothing writes to data.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(array))
