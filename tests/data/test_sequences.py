from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn_search.data import sequences
from crnn_search.data.sequences import Digits, draw_table


def test_splits_are_stratified_and_disjoint(digits: Digits) -> None:
    training, validation = sequences.split_images(digits.labels)
    assert len(training) == 50_000
    assert len(validation) == 10_000
    both = torch.cat([training, validation])
    assert torch.equal(both.sort().values, torch.arange(60_000))
    counts = torch.bincount(digits.labels[:60_000].long())
    held = torch.bincount(digits.labels[validation].long())
    assert (held - counts / 6).abs().max() < 1


def test_splits_are_reproducible(digits: Digits) -> None:
    first, second = sequences.split_images(digits.labels), sequences.split_images(digits.labels)
    assert torch.equal(first[1], second[1])


def test_tables_use_images_of_their_own_split_only(digits: Digits) -> None:
    training, validation = sequences.split_images(digits.labels)
    for table, allowed in (
        (sequences.training_table(training, digits.labels, 500, 8, 0, 0), training),
        (sequences.validation_table(digits.labels, 8), validation),
        (sequences.testing_table(digits.labels, 8), torch.arange(60_000, 61_000)),
    ):
        used = table.indices[torch.arange(8)[None] < table.lengths[:, None]]
        assert torch.isin(used, allowed).all()


def test_lengths_are_uniform_and_sums_are_correct(digits: Digits) -> None:
    table = sequences.validation_table(digits.labels, 8)
    assert len(table) == 20_000
    counts = torch.bincount(table.lengths)[1:]
    assert len(counts) == 8
    assert (counts - 2500).abs().max() < 200
    for row in range(50):
        shown = digits.labels[table.indices[row, : table.lengths[row]]]
        assert table.sums[row] == shown.long().sum()


def test_training_tables_are_reproducible_and_differ_by_epoch(digits: Digits) -> None:
    pool = torch.arange(1000)
    first = sequences.training_table(pool, digits.labels, 100, 8, seed=3, epoch=0)
    again = sequences.training_table(pool, digits.labels, 100, 8, seed=3, epoch=0)
    later = sequences.training_table(pool, digits.labels, 100, 8, seed=3, epoch=1)
    assert torch.equal(first.indices, again.indices)
    assert not torch.equal(first.indices, later.indices)


@given(
    sequences=st.integers(1, 40),
    max_length=st.integers(1, 12),
    batch=st.integers(1, 17),
    by_length=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_packed_batches_contain_every_image_once(
    sequences: int, max_length: int, batch: int, by_length: bool, seed: int
) -> None:
    labels = torch.arange(100, dtype=torch.uint8) % 10
    table = draw_table(torch.arange(100), labels, sequences, max_length, seed)
    seen = []
    for packed in table.batches(batch, by_length=by_length):
        assert int(packed.batch_sizes.sum()) == len(packed.images)
        steps = packed.images.split(packed.batch_sizes.tolist())
        for place, row in enumerate(packed.order.tolist()):
            images = [int(step[place]) for step in steps if place < len(step)]
            assert images == table.indices[row, : table.lengths[row]].tolist()
            assert packed.targets[place] == table.sums[row]
        seen += packed.order.tolist()
    assert sorted(seen) == list(range(sequences))


def test_derived_seeds_depend_on_every_part() -> None:
    seeds = {sequences.derive_seed(*parts) for parts in (("a", 1), ("a", 2), ("b", 1), ("a1",))}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert sequences.derive_seed("a", 1) == sequences.derive_seed("a", 1)


@pytest.mark.parametrize("max_length", [1, 3])
def test_training_lengths_reach_the_maximum(digits: Digits, max_length: int) -> None:
    table = sequences.training_table(torch.arange(100), digits.labels, 200, max_length, 0, 0)
    assert int(table.lengths.max()) == max_length


def test_tables_do_not_depend_on_the_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(1000) % 10
    pool = torch.arange(0, 1000, 3)
    whole = sequences.draw_table(pool, labels, 100, 5, 1)
    monkeypatch.setattr(sequences, "DRAW_CHUNK", 7)
    parts = sequences.draw_table(pool, labels, 100, 5, 1)
    assert torch.equal(whole.indices, parts.indices)
    assert torch.equal(whole.sums, parts.sums)


def test_shared_tensor_does_not_copy() -> None:
    array = np.zeros(3, np.uint8)
    read_only = array.view()
    read_only.flags.writeable = False
    tensor = sequences.shared_tensor(read_only)
    array[1] = 7
    assert tensor.tolist() == [0, 7, 0]
