"""The sequences of a data set without their images, and how they are split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crnn_search.data.problems import Problems, near
from crnn_search.text import shown

SPLITS = ("train", "validation", "test")

SHARES = (0.70, 0.15, 0.15)
"""Sequences of each split, where splits are drawn."""

LONGEST = 1000
"""Images of a sequence."""

LARGEST_TARGET = 1e30
"""So that squares of targets are finite."""

A_NUMBER = f"a number, -{LARGEST_TARGET:g} to {LARGEST_TARGET:g}"

_STRATUM = 20
"""Groups of similar targets that are split together, 14 : 3 : 3."""


def too_many(images: int) -> str:
    """The message for a sequence that is too long."""
    return f"{images:,} images in a sequence; 1 to {LONGEST:,} are valid"


@dataclass(frozen=True, eq=False)
class SequenceList:
    """`S` sequences.

    names: of the sequences. lengths: images of each, int64 `(S,)`. targets: float64 `(S,)`; NaN:
    they are not known. splits: the name of each one's split, or None: to be drawn. groups: the name
    of each one's group, or None: each sequence is a group. where: what a message calls each one, as
    its row.
    """

    names: Sequence[str]
    lengths: NDArray[np.int64]
    targets: NDArray[np.float64]
    splits: Sequence[str] | None
    groups: Sequence[str] | None
    where: Sequence[str]

    def group_numbers(self) -> NDArray[np.int32]:
        """The number of each sequence's group, int32 `(S,)`, in the order of their appearance."""
        numbers: dict[str, int] = {}
        names = self.groups or self.names
        return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int32)


def assign_splits(sequences: SequenceList, problems: Problems) -> NDArray[np.uint8]:
    """The split of each sequence, an index of `SPLITS`, uint8 `(S,)`: as given, or drawn."""
    if sequences.splits is not None:
        splits = _given(sequences, sequences.splits, problems)
    elif (found := len(set(sequences.groups or sequences.names))) >= len(SPLITS):
        splits = draw_splits(sequences)
    else:
        what = "groups of sequences" if sequences.groups else "sequences"
        problems.fail("", f"has {found} {what}; {len(SPLITS)} or more can be split")
    training = sequences.targets[splits == 0]
    if not problems.count and (training == training[0]).all():
        problems.add("", f"the target of each training sequence is {training[0]:g}")
    return splits


def _given(sequences: SequenceList, names: Sequence[str], problems: Problems) -> NDArray[np.uint8]:
    splits = np.zeros(len(names), np.uint8)
    first_of: dict[str, int] = {}
    for row, split in enumerate(names):
        where = sequences.where[row]
        if split not in SPLITS:
            valid = ", ".join(SPLITS)
            problems.add(
                where, f"split must be one of {valid}, got {shown(split)}{near(split, SPLITS)}"
            )
            continue
        splits[row] = SPLITS.index(split)
        if sequences.groups is None:
            continue
        first = first_of.setdefault(sequences.groups[row], row)
        if names[first] != split:
            problems.add(
                where,
                f"the group {shown(sequences.groups[row])} is in {split} here and in "
                f"{names[first]} at {sequences.where[first]}; a group must be in one split",
            )
    for split in SPLITS:
        if split not in names:
            problems.add(
                "", f"no sequence is in the split {split}; fill it, or give no splits to draw them"
            )
    return splits


def draw_splits(sequences: SequenceList) -> NDArray[np.uint8]:
    """Draw splits by group, 70/15/15 of the sequences, stratified by the target.

    Groups of similar targets are drawn together, in an order that depends on their names only.
    Each goes to the split that lacks most; a split that stays empty gets the smallest group of
    training.
    """
    groups = sequences.group_numbers()
    sizes = np.bincount(groups)
    means = np.bincount(groups, sequences.targets) / sizes
    names = dict.fromkeys(sequences.groups or sequences.names)
    keys = [hashlib.sha256(f"crnn-search/{name}".encode()).digest() for name in names]
    by_target = sorted(range(len(keys)), key=lambda group: (means[group], keys[group]))
    strata = [by_target[start : start + _STRATUM] for start in range(0, len(keys), _STRATUM)]
    order = [group for stratum in strata for group in sorted(stratum, key=keys.__getitem__)]

    split_of, filled = np.zeros(len(keys), np.uint8), np.zeros(len(SPLITS))
    for seen, group in zip(np.cumsum(sizes[order]), order, strict=True):
        split = int((np.array(SHARES) * seen - filled).argmax())
        split_of[group] = split
        filled[split] += sizes[group]
    for empty in np.flatnonzero(filled == 0):
        training = np.flatnonzero(split_of == 0)
        split_of[training[sizes[training].argmin()]] = empty
    return split_of[groups]


def test_last(
    entries: NDArray[np.int64], lengths: NDArray[np.int64], splits: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bring images in an order where those that only test sequences have are the last ones.

    entries: the image of each step of each sequence, int64 `(R,)`; every image is one of a step.
    lengths: of the sequences, int64 `(S,)`. splits: indices of `SPLITS`, uint8 `(S,)`.

    Returns the images in the new order, int64 `(I,)`, and `entries` as places in it.
    """
    used = np.zeros(entries.max() + 1, bool)
    used[entries[splits.repeat(lengths) != SPLITS.index("test")]] = True
    order = (~used).argsort(kind="stable")
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    return order, places[entries]
