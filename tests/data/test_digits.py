"""MNIST's splits, and the tables of sequences that are drawn from it."""

from __future__ import annotations

import pytest
import torch

from crnn_search.data import digits as tables
from crnn_search.data.digits import Digits


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
        (tables.training_table(training, digits.labels, 500, 8, 0, 0), training),
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


def test_training_tables_are_reproducible_and_differ_by_epoch(digits: Digits) -> None:
    pool = torch.arange(1000)
    first = tables.training_table(pool, digits.labels, 100, 8, seed=3, epoch=0)
    again = tables.training_table(pool, digits.labels, 100, 8, seed=3, epoch=0)
    later = tables.training_table(pool, digits.labels, 100, 8, seed=3, epoch=1)
    assert torch.equal(first.indices, again.indices)
    assert not torch.equal(first.indices, later.indices)


@pytest.mark.parametrize("max_length", [1, 3])
def test_training_lengths_reach_the_maximum(digits: Digits, max_length: int) -> None:
    table = tables.training_table(torch.arange(100), digits.labels, 200, max_length, 0, 0)
    assert int(table.lengths.max()) == max_length


def test_tables_do_not_depend_on_the_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(1000) % 10
    pool = torch.arange(0, 1000, 3)
    whole = tables.draw_table(pool, labels, 100, 5, 1)
    monkeypatch.setattr(tables, "DRAW_CHUNK", 7)
    parts = tables.draw_table(pool, labels, 100, 5, 1)
    assert torch.equal(whole.indices, parts.indices)
    assert torch.equal(whole.targets, parts.targets)
