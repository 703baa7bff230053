"""What a data set has in it, for people and for reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crnn_search.data.images import size_text
from crnn_search.data.sequence_list import SPLITS, SequenceList, in_several_splits


@dataclass(frozen=True)
class Summary:
    """What was found in a data set.

    images: of all sequences. size: rows and columns. sizes: how many files had which size.
    recoloured: how many were turned from colour into grey, or the other way. lengths: shortest,
    median, longest. target_range: lowest, mean, highest. target_std: standard deviation. splits:
    sequences of each. split_by: `given`, `group` or `sequence`. shared_images, shared_sequences:
    identical ones that are in more than one split. notes: other warnings.
    """

    target: str
    sequences: int
    images: int
    distinct_images: int
    size: Sequence[int]
    channels: int
    sizes: Mapping[str, int]
    recoloured: int
    lengths: Sequence[float]
    target_range: Sequence[float]
    target_std: float
    splits: Mapping[str, int]
    split_by: str
    groups: int
    shared_images: int
    shared_sequences: int
    notes: Sequence[str] = ()

    def lines(self) -> list[tuple[str, str]]:
        """Each thing that was found: its name and its value."""
        shortest, median, longest = self.lengths
        low, mean, high = self.target_range
        splits = ", ".join(f"{count:,} {name}" for name, count in self.splits.items())
        drawn = "as given" if self.split_by == "given" else f"drawn by {self.split_by}"
        return [
            ("sequences", f"{self.sequences:,}"),
            ("groups", f"{self.groups:,}"),
            ("images", f"{self.images:,}, {self.distinct_images:,} of them distinct"),
            ("lengths", f"{shortest:g} to {longest:g}, median {median:g}"),
            ("size", self._size_text()),
            ("channels", self._channels_text()),
            (self.target, f"{low:g} to {high:g}, mean {mean:.4g} ± {self.target_std:.4g}"),
            ("splits", f"{splits}; {drawn}"),
        ]

    def _size_text(self) -> str:
        size = size_text(self.size)
        others = [count for name, count in self.sizes.items() if name != size]
        if not others:
            return size
        return (
            f"{size}; {sum(others):,} files had other sizes ({len(others):,}) and were resized, "
            "with the Lanczos filter and without keeping proportions"
        )

    def _channels_text(self) -> str:
        name, other = ("1, grey", "colour") if self.channels == 1 else ("3, colour", "grey")
        return f"{name}; {self.recoloured:,} files were {other}" if self.recoloured else name

    def warnings(self) -> list[str]:
        """What makes the scores doubtful, and what may be a mistake."""
        found = []
        for count, what in ((self.shared_images, "image"), (self.shared_sequences, "sequence")):
            if count:
                these = f"{what} is" if count == 1 else f"identical {what}s are"
                found.append(f"{count:,} {these} in more than one split: scores may be too good")
        return [*found, *self.notes]


@dataclass(frozen=True)
class FoundImages:
    """The images of a source: the format they are in now, and what they were before."""

    size: tuple[int, int]
    channels: int
    sizes: dict[str, int]
    recoloured: int


@dataclass(frozen=True, eq=False)
class Content:
    """A data set beside its images.

    target: its name. splits: indices of `SPLITS`, uint8 `(S,)`. indices: the distinct image of each
    image, sequence by sequence, int32 `(R,)`. notes: what the user should know.
    """

    sequences: SequenceList
    target: str
    splits: NDArray[np.uint8]
    indices: NDArray[np.int32]
    images: FoundImages
    notes: list[str]


def summarise(content: Content) -> Summary:
    """Count what is in a data set."""
    sequences, splits, indices = content.sequences, content.splits, content.indices
    lengths, targets = sequences.lengths, sequences.targets
    distinct = int(indices.max()) + 1
    numbers: dict[bytes, int] = {}
    same = [
        numbers.setdefault(indices[end - length : end].tobytes(), len(numbers))
        for end, length in zip(lengths.cumsum(), lengths, strict=True)
    ]
    drawn = "group" if sequences.groups is not None else "sequence"
    return Summary(
        target=content.target,
        sequences=len(lengths),
        images=len(indices),
        distinct_images=distinct,
        size=content.images.size,
        channels=content.images.channels,
        sizes=content.images.sizes,
        recoloured=content.images.recoloured,
        lengths=(float(lengths.min()), float(np.median(lengths)), float(lengths.max())),
        target_range=(float(targets.min()), float(targets.mean()), float(targets.max())),
        target_std=float(targets.std()),
        splits={name: int((splits == index).sum()) for index, name in enumerate(SPLITS)},
        split_by="given" if sequences.splits is not None else drawn,
        groups=len(set(sequences.group_numbers().tolist())),
        shared_images=in_several_splits(indices, splits.repeat(lengths), distinct),
        shared_sequences=in_several_splits(np.array(same, np.int32), splits, len(numbers)),
        notes=tuple(content.notes),
    )
