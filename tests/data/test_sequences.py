"""Tables of sequences: packed batches, seeds, and memory that processes share."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crnn_search.data import sequences
from crnn_search.data.digits import draw_table, training_table
from crnn_search.data.sequences import SequenceTable
from crnn_search.data.task import Draw


@pytest.mark.hypothesis
@given(
    count=st.integers(1, 40),
    max_length=st.integers(1, 12),
    batch=st.integers(1, 17),
    by_length=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_packed_batches_contain_every_image_once(
    count: int, max_length: int, batch: int, by_length: bool, seed: int
) -> None:
    labels = torch.arange(100, dtype=torch.uint8) % 10
    table = draw_table(torch.arange(100), labels, count, max_length, seed)
    seen = []
    for packed in table.batches(batch, by_length=by_length):
        assert int(packed.batch_sizes.sum()) == len(packed.images)
        steps = packed.images.split(packed.batch_sizes.tolist())
        for place, row in enumerate(packed.order.tolist()):
            images = [int(step[place]) for step in steps if place < len(step)]
            assert images == table.indices[row, : table.lengths[row]].tolist()
            assert packed.targets[place] == table.targets[row]
        seen += packed.order.tolist()
    assert sorted(seen) == list(range(count))


@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 5), st.integers(2, 4))
def test_reused_images_are_encoded_once(
    sequences: int, longest: int, parts: int, reuse: int
) -> None:
    """The batch is the packed one, but for the images that it encodes."""
    labels = torch.arange(10, dtype=torch.uint8)
    draw = Draw(sequences, longest, 0, 0, parts * reuse, reuse=reuse)
    table = training_table(torch.arange(10), labels, draw)
    plain = dataclasses.replace(table, reuse=1).batches(draw.batch_size)
    for packed, batch in zip(plain, table.batches(draw.batch_size), strict=True):
        assert batch.rows is not None
        assert torch.equal(batch.images[batch.rows], packed.images)
        assert (batch.rows.bincount() == reuse).all()
        assert len(batch.images) * reuse == len(packed.images)
        assert torch.equal(batch.batch_sizes, packed.batch_sizes)
        assert torch.equal(batch.targets, packed.targets)
        assert torch.equal(batch.order, packed.order)
        assert packed.rows is None


def test_some_sequences_are_taken() -> None:
    indices = torch.arange(12, dtype=torch.int32).reshape(4, 3)
    table = SequenceTable(indices, torch.tensor([3, 2, 1, 3]), torch.arange(4.0), torch.arange(4))
    taken = table.take(torch.tensor([3, 1]))
    assert taken.indices.tolist() == [[9, 10, 11], [3, 4, 5]]
    assert (taken.lengths.tolist(), taken.targets.tolist()) == ([3, 2], [3.0, 1.0])
    assert taken.groups is not None
    assert taken.groups.tolist() == [3, 1]
    assert len(table.take(table.lengths == 3)) == 2


def test_derived_seeds_depend_on_every_part() -> None:
    seeds = {sequences.derive_seed(*parts) for parts in (("a", 1), ("a", 2), ("b", 1), ("a1",))}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert sequences.derive_seed("a", 1) == sequences.derive_seed("a", 1)


def test_shared_tensor_does_not_copy() -> None:
    array = np.zeros(3, np.uint8)
    read_only = array.view()
    read_only.flags.writeable = False
    tensor = sequences.shared_tensor(read_only)
    array[1] = 7
    assert tensor.tolist() == [0, 7, 0]


def test_table_is_pickled_without_copies() -> None:
    table = SequenceTable(torch.ones(9, 9, dtype=torch.int32), torch.ones(9), torch.ones(9))
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(table, protocol=5, buffer_callback=buffers.append)
    assert len(buffers) == 3
    again: SequenceTable = pickle.loads(content, buffers=buffers)
    assert again.groups is None
    table.indices[2, 3] = 5
    assert again.indices[2, 3] == 5
