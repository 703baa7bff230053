"""Splits: drawn by group, stratified by the target, the same each time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crnn_search.data.sequence_list import SequenceList, draw_splits


def sequence_list(targets: list[float], groups: list[str] | None = None) -> SequenceList:
    names = [str(row) for row in range(len(targets))]
    ones = np.ones(len(targets), np.int64)
    return SequenceList(names, ones, np.array(targets, np.float64), None, groups, names)


def test_splits_are_stratified_by_target() -> None:
    random = np.random.default_rng(0)
    targets = random.exponential(size=2000)
    splits = draw_splits(sequence_list(targets.tolist()))
    assert np.bincount(splits).tolist() == [1400, 300, 300]
    for tenth in np.split(targets.argsort(), 10):
        assert np.bincount(splits[tenth]).tolist() == [140, 30, 30]


def test_splits_depend_on_names_only() -> None:
    targets = np.random.default_rng(0).permutation(300).astype(float)
    names = [f"clip {row}" for row in range(300)]
    order = np.random.default_rng(1).permutation(300)
    ones = np.ones(300, np.int64)
    splits = draw_splits(SequenceList(names, ones, targets, None, None, names))
    again = [names[row] for row in order]
    shuffled = SequenceList(again, ones, targets[order], None, None, again)
    np.testing.assert_array_equal(draw_splits(shuffled), splits[order])


def test_splits_are_pinned() -> None:
    """A change would move sequences between the splits of those who search again."""
    splits = draw_splits(sequence_list([float(row) for row in range(20)]))
    assert "".join(map(str, splits)) == "00210201200001000000"


@pytest.mark.hypothesis
@given(st.lists(st.tuples(st.floats(-1e30, 1e30), st.integers(0, 40)), min_size=3, max_size=200))
def test_groups_stay_together_and_no_split_is_empty(rows: list[tuple[float, int]]) -> None:
    groups = [str(group) for _, group in rows]
    if len(set(groups)) < 3:
        return
    splits = draw_splits(sequence_list([target for target, _ in rows], groups))
    assert set(splits.tolist()) == {0, 1, 2}
    of_group = {(group, split) for group, split in zip(groups, splits.tolist(), strict=True)}
    assert len(of_group) == len(set(groups))
    largest = max(groups.count(group) for group in groups)
    if largest * 10 <= len(groups):
        shares = np.bincount(splits) / len(groups)
        np.testing.assert_allclose(shares, [0.7, 0.15, 0.15], atol=largest / len(groups) + 0.01)
