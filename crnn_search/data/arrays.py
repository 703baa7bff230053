"""Data sets in arrays: `SequenceData`, and `.npz` files with the same arrays."""

from __future__ import annotations

import zipfile
import zlib
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

ARRAYS = ("images", "targets", "lengths", "split", "group")
"""The arrays of an `.npz`; the first two are required."""


@dataclass(frozen=True, eq=False)
class SequenceData:
    """Image sequences in memory: `S` sequences of up to `T` images.

    images: uint8 `(S, T, H, W)`, or `(S, T, H, W, C)` with 1 or 3 channels; those at or beyond a
    sequence's length are padding. lengths: integers `(S,)`, 1 to `T`, or None: all have `T` images.
    targets: numbers `(S,)`. split: `train`, `validation` or `test` for each, or None: drawn.
    group: a text or an integer for each, or None; sequences of a group stay in one split.
    name: what messages and reports call the data set.

    Raises:
        DataError: an array has another shape, dtype or value; lists every problem.
    """

    images: ArrayLike
    lengths: ArrayLike | None
    targets: ArrayLike
    split: ArrayLike | None = None
    group: ArrayLike | None = None
    name: str = "SequenceData"

    def __post_init__(self) -> None:
        problems = Problems(self.name)
        images = _array(self.images)
        if images.dtype != np.uint8 or images.ndim not in {4, 5}:
            problems.add(
                "images",
                "must be uint8 of shape (S, T, H, W) or (S, T, H, W, C), "
                f"got {images.dtype} of shape {images.shape}",
            )
            problems.stop_if_any()
        _check_shape(images, problems)
        targets = _array(self.targets)
        _check_vector("targets", targets, "iufb", len(images), problems)
        lengths = _array(self.lengths) if self.lengths is not None else None
        for name, kinds in (("lengths", "iu"), ("split", "US"), ("group", "iuUS")):
            value = getattr(self, name)
            if value is not None:
                _check_vector(name, _array(value), kinds, len(images), problems)
        problems.stop_if_any()
        if lengths is None:
            lengths = np.full(len(images), images.shape[1])
        _check_values(lengths, targets, images.shape[1], problems)
        problems.stop_if_any()
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "lengths", lengths.astype(np.int64))
        object.__setattr__(self, "targets", targets.astype(np.float64))

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The images as `(S, T, C, H, W)`, a view."""
        images = np.asarray(self.images)
        return images[:, :, None] if images.ndim == 4 else np.moveaxis(images, -1, 2)

    def sequences(self) -> SequenceList:
        """The sequences without their images."""
        return SequenceList(
            [str(row) for row in range(len(np.asarray(self.lengths)))],
            np.asarray(self.lengths),
            np.asarray(self.targets),
            None if self.split is None else _texts(self.split),
            None if self.group is None else _texts(self.group),
        )


def read_npz(path: Path) -> SequenceData:
    """Read an `.npz` file.

    Raises:
        DataError: it is no such file, holds Python objects, or an array is missing or not valid.
    """
    problems = Problems(str(path))
    arrays: dict[str, NDArray[Any]] = {}
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no zip file")
        with np.load(path, allow_pickle=False) as file:
            _check_names(file.files, problems)
            problems.stop_if_any()
            for name in file.files:
                arrays[name] = _member(file, name, problems)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, MemoryError) as error:
        problems.add("", f"cannot be read as an .npz file: {error}")
    problems.stop_if_any()
    return SequenceData(lengths=arrays.pop("lengths", None), **arrays, name=str(path))


def _member(file: Any, name: str, problems: Problems) -> NDArray[Any]:
    try:
        return np.asarray(file[name])
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        problems.add(name, "holds Python objects, which are never loaded; save numbers or texts")
        return np.empty(0)


def _check_names(names: list[str], problems: Problems) -> None:
    listed = ", ".join(ARRAYS)
    for name in names:
        if name not in ARRAYS:
            hint = near(name, ARRAYS)
            problems.add("", f"has an unknown array {name!r}{hint} (valid names: {listed})")
    for name in ARRAYS[:2]:
        if name not in names:
            problems.add("", f"has no array {name!r} (its arrays: {', '.join(names) or 'none'})")


def _array(value: ArrayLike) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except ValueError:  # lists of different lengths
        return np.empty(0, object)


def _check_shape(images: NDArray[np.uint8], problems: Problems) -> None:
    _, steps, rows, columns = images.shape[:4]
    if not 1 <= steps <= LONGEST:
        problems.add("images", f"T = {too_many(steps)}")
    if min(rows, columns) < 1:
        problems.add("images", f"an image must have pixels, got {rows} × {columns}")
    if images.ndim == 5 and images.shape[4] not in {1, 3}:
        problems.add("images", f"must have 1 or 3 channels, got C = {images.shape[4]}")


def _check_vector(
    name: str, array: NDArray[Any], kinds: str, count: int, problems: Problems
) -> None:
    """Check the shape and the kind of dtype of an array with one value for each sequence."""
    if array.shape != (count,):
        problems.add(name, f"must have shape ({count},), one value a sequence, got {array.shape}")
    elif array.dtype.kind not in kinds:
        valid = {"iufb": "numbers", "iu": "integers", "US": "texts"}.get(kinds, "texts or integers")
        problems.add(name, f"must be {valid}, got {array.dtype}")


def _check_values(
    lengths: NDArray[Any], targets: NDArray[Any], steps: int, problems: Problems
) -> None:
    for row in np.flatnonzero((lengths < 1) | (lengths > steps)):
        what = "is an empty sequence" if lengths[row] == 0 else f"is {lengths[row]}"
        problems.add(f"lengths[{row}]", f"{what}; a length must be 1 to {steps:,}")
    for row in np.flatnonzero(~(np.abs(targets.astype(np.float64)) <= LARGEST_TARGET)):
        problems.add(f"targets[{row}]", f"must be {A_NUMBER}, got {targets[row]}")


def _texts(values: ArrayLike) -> list[str]:
    array = np.asarray(values)
    if array.dtype.kind == "S":
        return [value.decode("utf-8", "replace") for value in array.tolist()]
    return [str(value) for value in array.tolist()]
