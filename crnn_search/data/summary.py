"""What a data set has in it, for people."""

from __future__ import annotations

import numpy as np

from crnn_search.data.dataset import Dataset
from crnn_search.data.images import size_text
from crnn_search.data.sequence_list import SPLITS


def describe(data: Dataset) -> list[tuple[str, str]]:
    """What is in a data set: the name of each thing, and its value."""
    lengths, targets, found = data.lengths, data.targets, data.found
    counts = np.bincount(data.splits, minlength=len(SPLITS))
    splits = ", ".join(f"{count:,} {name}" for name, count in zip(SPLITS, counts, strict=True))
    drawn = "as given" if found.split_by == "given" else f"drawn by {found.split_by}"
    groups = int(data.groups.max()) + 1
    grouped = f" in {groups:,} groups" if groups < len(data) else ""
    return [
        ("sequences", f"{len(data):,}{grouped}"),
        ("images", f"{len(data.indices):,}, {len(data.images):,} of them distinct"),
        ("lengths", f"{lengths.min():,} to {lengths.max():,}, median {np.median(lengths):g}"),
        ("size", _size(data)),
        ("channels", _channels(data)),
        (
            found.target,
            f"{targets.min():g} to {targets.max():g}, mean {targets.mean():.4g} "
            f"± {targets.std():.4g}",
        ),
        ("splits", f"{splits}; {drawn}"),
    ]


def warnings(data: Dataset) -> list[str]:
    """What makes scores doubtful, and what may be a mistake."""
    warned = []
    for what, count in zip(("image", "sequence"), shared(data), strict=True):
        if count:
            these = f"{what} is" if count == 1 else f"identical {what}s are"
            warned.append(f"{count:,} {these} in more than one split: scores may be too good")
    return [*warned, *data.found.notes]


def shared(data: Dataset) -> tuple[int, int]:
    """How many distinct images, and how many distinct sequences, are in more than one split."""
    used = np.zeros((len(SPLITS), len(data.images)), bool)
    used[data.splits.repeat(data.lengths), data.indices] = True
    splits_of: dict[bytes, set[int]] = {}
    ends = data.lengths.cumsum()
    for start, end, split in zip(ends - data.lengths, ends, data.splits.tolist(), strict=True):
        splits_of.setdefault(data.indices[start:end].tobytes(), set()).add(split)
    return int((used.sum(0) > 1).sum()), sum(len(splits) > 1 for splits in splits_of.values())


def _size(data: Dataset) -> str:
    size = list(data.images.shape[2:])
    others = [count for *before, _, count in data.found.formats if before != size]
    resized = "had another size and were resized with the Lanczos filter, proportions not kept"
    return size_text(size) + (f"; {sum(others):,} {resized}" if others else "")


def _channels(data: Dataset) -> str:
    channels = data.images.shape[1]
    others = [count for *_, before, count in data.found.formats if before != channels]
    name, other = ("1, grey", "in colour") if channels == 1 else ("3, colour", "grey")
    return name + (f"; {sum(others):,} were {other}" if others else "")
