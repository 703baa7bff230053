"""What a data set has in it, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

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
    ends = data.lengths.cumsum()
    sequences = [
        data.indices[end - length : end].tobytes()
        for end, length in zip(ends, data.lengths, strict=True)
    ]
    return (
        _in_several(data.indices.tolist(), data.splits.repeat(data.lengths)),
        _in_several(sequences, data.splits),
    )


def _in_several(items: Iterable[object], splits: NDArray[np.uint8]) -> int:
    """How many of the distinct items are in more than one split."""
    pairs = set(zip(items, splits.tolist(), strict=True))
    return sum(count > 1 for count in Counter(item for item, _ in pairs).values())


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
