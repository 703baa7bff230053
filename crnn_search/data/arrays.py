"""Data sets in arrays: `SequenceData`, and `.npz` files with the same arrays."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crnn_search.data.problems import Problems, near
from crnn_search.data.sequence_list import (
    A_NUMBER,
    LARGEST_TARGET,
    LONGEST,
    SequenceList,
    too_many,
)
from crnn_search.errors import DataError
from crnn_search.text import first_line

ARRAYS = ("images", "targets", "lengths", "split", "group")
"""The arrays of an `.npz`; the first two are required."""

_KINDS = {
    "targets": ("numbers", "iufb"),
    "lengths": ("integers", "iu"),
    "split": ("texts", "U"),
    "group": ("texts or integers", "iuU"),
}
"""What the arrays with one value for each sequence hold, and the kinds of their dtypes."""


@dataclass(frozen=True, eq=False)
class SequenceData:
    """Image sequences in memory: `S` sequences of up to `T` images.

    images: uint8 `(S, T, H, W)`, or `(S, T, H, W, C)` with 1 or 3 channels; those at or beyond a
    sequence's length are padding. lengths: integers `(S,)`, 1 to `T`, or None: all have `T` images.
    targets: numbers `(S,)`, or None: they are not known, the sequences can only be predicted.
    split: `train`, `validation` or `test` for each, or None: drawn. group: a text or an integer for
    each, or None; sequences of a group stay in one split. name: what messages call the data set.

    Raises:
        DataError: an array has another shape, dtype or value; lists every problem.
    """

    images: ArrayLike
    lengths: ArrayLike | None
    targets: ArrayLike | None
    split: ArrayLike | None = None
    group: ArrayLike | None = None
    name: str = "SequenceData"

    def __post_init__(self) -> None:
        problems = Problems(self.name)
        images = _array(self.images)
        if images.dtype != np.uint8 or images.ndim not in {4, 5}:
            problems.fail(
                "images",
                "must be uint8 of shape (S, T, H, W) or (S, T, H, W, C), "
                f"got {images.dtype} of shape {images.shape}",
            )
        count, steps = images.shape[:2]
        if not 1 <= steps <= LONGEST:
            problems.add("images", f"T = {too_many(steps)}")
        if images.ndim == 5 and images.shape[4] not in {1, 3}:
            problems.add("images", f"must have 1 or 3 channels, got C = {images.shape[4]}")
        object.__setattr__(self, "images", images)
        if self.lengths is None:
            object.__setattr__(self, "lengths", np.full(count, steps))
        for name in _KINDS:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _vector(name, value, count, problems))
        problems.raise_any()
        _check_lengths(np.asarray(self.lengths), steps, problems)
        if self.targets is not None:
            _check_targets(np.asarray(self.targets), problems)
        problems.raise_any()

    def pixels(self) -> NDArray[np.uint8]:
        """The images as `(S, T, C, H, W)`, a view."""
        images = np.asarray(self.images)
        return images[:, :, None] if images.ndim == 4 else np.moveaxis(images, -1, 2)

    def sequences(self) -> SequenceList:
        """The sequences without their images."""
        count = len(np.asarray(self.lengths))
        return SequenceList(
            [str(row) for row in range(count)],
            np.asarray(self.lengths, np.int64),
            np.full(count, np.nan)
            if self.targets is None
            else np.asarray(self.targets, np.float64),
            None if self.split is None else np.asarray(self.split).tolist(),
            None if self.group is None else [str(name) for name in np.asarray(self.group)],
            [f"split[{row}]" for row in range(count)],
        )


def read_npz(path: Path, name: str | None = None, *, labelled: bool = True) -> SequenceData:
    """Read an `.npz` file, all of it into memory. name: what messages call it.

    labelled: it must have targets.

    Raises:
        DataError: it is no such file, holds Python objects, does not fit into memory, or an array
            is missing or not valid.
    """
    name = name or str(path)
    problems = Problems(name)
    names, arrays = _load(path, problems)
    for array in names:
        if array not in ARRAYS:
            valid = ", ".join(ARRAYS)
            problems.add(
                "", f"has an unknown array {array!r}{near(array, ARRAYS)} (valid names: {valid})"
            )
    for array in ARRAYS[: 2 if labelled else 1]:
        if array not in names:
            problems.add("", f"has no array {array!r} (its arrays: {', '.join(names) or 'none'})")
    problems.raise_any()
    lengths, targets = arrays.pop("lengths", None), arrays.pop("targets", None)
    return SequenceData(lengths=lengths, targets=targets, **arrays, name=name)


def _load(path: Path, problems: Problems) -> tuple[list[str], dict[str, NDArray[Any]]]:
    """The names of all arrays in an `.npz` file; those of `ARRAYS`."""
    try:
        if not zipfile.is_zipfile(path):
            raise DataError("it is no zip file")
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            names = list(stored)
            return names, {name: stored[name] for name in ARRAYS if name in names}
    except MemoryError as error:
        problems.fail(
            "",
            f"is read into memory whole, which does not hold it: {first_line(error)}; use a "
            "folder of images with metadata.csv",
        )
    except Exception as error:  # NumPy and zlib raise nearly anything for a file that is damaged
        if "allow_pickle" in str(error):
            problems.fail("", "holds Python objects, which are never loaded; save plain arrays")
        problems.fail("", f"cannot be read as an .npz file: {first_line(error)}")


def _array(value: ArrayLike) -> NDArray[Any]:
    """A value as an array, of a text dtype if all that it holds are texts."""
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        return np.empty(0, object)
    if array.dtype.kind == "O" and all(isinstance(item, str) for item in array.flat):
        return array.astype(np.str_)  # a column of a data frame
    return array


def _vector(name: str, value: ArrayLike, count: int, problems: Problems) -> NDArray[Any]:
    """An array with one value for each sequence, its shape and dtype checked."""
    array = _array(value)
    valid, kinds = _KINDS[name]
    if array.shape != (count,):
        problems.add(name, f"must have shape ({count},), one value a sequence, got {array.shape}")
    elif array.dtype.kind not in kinds:
        problems.add(name, f"must be {valid}, got {array.dtype}")
    return array


def _check_lengths(lengths: NDArray[Any], steps: int, problems: Problems) -> None:
    for row in np.flatnonzero((lengths < 1) | (lengths > steps)):
        what = "is an empty sequence" if lengths[row] == 0 else f"is {lengths[row]}"
        problems.add(f"lengths[{row}]", f"{what}; a length must be 1 to {steps:,}")


def _check_targets(targets: NDArray[Any], problems: Problems) -> None:
    for row in np.flatnonzero(~(np.abs(targets.astype(np.float64)) <= LARGEST_TARGET)):
        problems.add(f"targets[{row}]", f"must be {A_NUMBER}, got {targets[row]}")
