"""MNIST's splits, and the tables of sequences that are drawn from it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crnn_search.data import digits as tables
from crnn_search.data.digits import Digits
from crnn_search.data.sequences import SequenceTable
from crnn_search.data.task import Draw


def test_splits_are_stratified_and_disjoint(digits: Digits) -> None:
    training, validation = tables.split_images(digits.labels)
    assert len(training) == 50_000
    assert len(validation) == 10_000
    both = torch.cat([training, validation])
    assert torch.equal(both.sort().values, torch.arange(60_000))
    counts = torch.bincount(digits.labels[:60_000].long())
    held = torch.bincount(digits.labels[validation].long())
    assert (held - counts / 6).abs().max() < 1


def test_splits_are_reproducible(digits: Digits) -> None:
    first, second = tables.split_images(digits.labels), tables.split_images(digits.labels)
    assert torch.equal(first[1], second[1])


def test_tables_use_images_of_their_own_split_only(digits: Digits) -> None:
    training, validation = tables.split_images(digits.labels)
    for table, allowed in (
        (tables.training_table(training, digits.labels, Draw(500, 8, 0, 0, 32)), training),
        (tables.training_table(training, digits.labels, Draw(500, 8, 0, 0, 32, reuse=4)), training),
        (tables.validation_table(digits.labels, 8), validation),
        (tables.testing_table(digits.labels, 8), torch.arange(60_000, 61_000)),
    ):
        used = table.indices[torch.arange(8)[None] < table.lengths[:, None]]
        assert torch.isin(used, allowed).all()


def test_lengths_are_uniform_and_sums_are_correct(digits: Digits) -> None:
    table = tables.validation_table(digits.labels, 8)
    assert len(table) == 20_000
    counts = torch.bincount(table.lengths)[1:]
    assert len(counts) == 8
    assert (counts - 2500).abs().max() < 200
    for row in range(50):
        shown = digits.labels[table.indices[row, : table.lengths[row]]]
        assert table.targets[row] == shown.long().sum()


@pytest.mark.parametrize("reuse", [1, 4])
def test_training_tables_are_reproducible_and_differ_by_epoch(digits: Digits, reuse: int) -> None:
    pool, draw = torch.arange(1000), Draw(100, 8, seed=3, epoch=0, batch_size=20, reuse=reuse)
    first = tables.training_table(pool, digits.labels, draw)
    again = tables.training_table(pool, digits.labels, draw)
    later = tables.training_table(pool, digits.labels, replace(draw, epoch=1))
    assert torch.equal(first.indices, again.indices)
    assert not torch.equal(first.indices, later.indices)


@pytest.mark.parametrize("max_length", [1, 3])
def test_training_lengths_reach_the_maximum(digits: Digits, max_length: int) -> None:
    draw = Draw(200, max_length, 0, 0, batch_size=32)
    table = tables.training_table(torch.arange(100), digits.labels, draw)
    assert int(table.lengths.max()) == max_length


@pytest.mark.hypothesis
@given(
    sequences=st.integers(1, 90),
    longest=st.integers(1, 9),
    parts=st.integers(1, 7),
    reuse=st.integers(2, 5),
    pool=st.sampled_from([3, 10_000]),
)
def test_a_batch_has_each_of_its_images_so_often(
    sequences: int, longest: int, parts: int, reuse: int, pool: int
) -> None:
    """Of a pool of three an image is drawn several times: so often it counts."""
    labels = (torch.arange(20_000) % 10).to(torch.uint8)
    images = torch.arange(7, 7 + pool)
    draw = Draw(sequences, longest, 1, 2, batch_size=parts * reuse, reuse=reuse)
    table = tables.training_table(images, labels, draw)
    assert len(table) == max(reuse, sequences - sequences % reuse)
    lengths = []
    for start in range(0, len(table), draw.batch_size):
        rows = slice(start, start + draw.batch_size)
        partitions = table.lengths[rows].reshape(reuse, -1)
        assert (partitions == partitions[0]).all()
        lengths += partitions[0].tolist()
        drawn = [shown(table, row) for row in range(len(table))[rows]]
        counts = Counter(image for sequence in drawn for image in sequence)
        assert all(count % reuse == 0 for count in counts.values())
        assert set(counts) <= set(images.tolist())
        assert table.targets[rows].tolist() == [sum(i % 10 for i in row) for row in drawn]
    assert lengths == [number % longest + 1 for number in range(len(lengths))]
    padding = torch.arange(longest) >= table.lengths[:, None]
    assert not table.indices[padding].any()


def test_partitions_of_a_batch_differ(digits: Digits) -> None:
    draw = Draw(128, 8, 0, 0, batch_size=128, reuse=4)
    table = tables.training_table(torch.arange(50_000), digits.labels, draw)
    partitions = table.indices.reshape(4, 32, 8)
    assert not any(torch.equal(partitions[0], other) for other in partitions[1:])
    assert len(table.targets.reshape(4, 32).unique(dim=0)) == 4


def shown(table: SequenceTable, row: int) -> list[int]:
    """The images of a sequence."""
    return table.indices[row, : table.lengths[row]].tolist()


def test_tables_do_not_depend_on_the_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(1000) % 10
    pool = torch.arange(0, 1000, 3)
    whole = tables.draw_table(pool, labels, 100, 5, 1)
    monkeypatch.setattr(tables, "DRAW_CHUNK", 7)
    parts = tables.draw_table(pool, labels, 100, 5, 1)
    assert torch.equal(whole.indices, parts.indices)
    assert torch.equal(whole.targets, parts.targets)
