"""A data set as it is trained on: decoded, split, in the cache folder and memory-mapped.

data/DIGEST/          a data set; DIGEST is the SHA-256 of its dataset.json
  images.uint8        distinct images, (I, C, H, W)
  arrays.npz          indices, lengths, targets, splits, groups, names
  dataset.json        what was found in the source; shape of the images; SHA-256 of each array
data/STATE.source     the digest of what a source, in this state, was decoded to
data/.new/            what a process decodes that has locked .lock
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crnn_search.data.sequence_list import SPLITS, SequenceList
from crnn_search.errors import DataError
from crnn_search.storage.cache import CACHE_VARIABLE, cache_folder
from crnn_search.text import first_line

IMAGES, ARRAYS, DESCRIPTION = "images.uint8", "arrays.npz", "dataset.json"


@dataclass(frozen=True)
class Found:
    """What was found in a source and is not in the arrays of its data set.

    target: its name. size: rows and columns of all images now. channels: 1 or 3, now. sizes: how
    many files had which size. recoloured: how many were turned from colour into grey, or the other
    way. split_by: `given`, or what was drawn, `group` or `sequence`. notes: warnings.
    """

    target: str
    size: list[int]
    channels: int
    sizes: dict[str, int]
    recoloured: int
    split_by: str
    notes: list[str]


@dataclass(frozen=True, eq=False)
class Dataset:
    """`S` sequences of `I` distinct images; arrays are read-only.

    images: uint8 `(I, C, H, W)`, memory-mapped. indices: the images of all sequences, one sequence
    after the other, int32 `(R,)`. lengths: int64 `(S,)`. targets: float64 `(S,)`. splits: indices
    of `SPLITS`, uint8 `(S,)`. groups: the number of each sequence's group, int32 `(S,)`. names: of
    the sequences, `(S,)`. digest: of the content, hexadecimal. folder: its files.
    """

    images: NDArray[np.uint8]
    indices: NDArray[np.int32]
    lengths: NDArray[np.int64]
    targets: NDArray[np.float64]
    splits: NDArray[np.uint8]
    groups: NDArray[np.int32]
    names: NDArray[np.str_]
    found: Found
    digest: str
    folder: Path

    def __len__(self) -> int:
        return len(self.lengths)

    def rows(self, *splits: str) -> NDArray[np.int64]:
        """The sequences of these splits, in order, int64."""
        return np.flatnonzero(np.isin(self.splits, [SPLITS.index(split) for split in splits]))

    def table(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """The images of these sequences, int32 `(S, T)`; those beyond a length are zero."""
        lengths = self.lengths[rows]
        starts = (np.cumsum(self.lengths) - self.lengths)[rows]
        steps = np.arange(lengths.max(initial=0))
        real = steps < lengths[:, None]
        table = np.zeros(real.shape, np.int32)
        table[real] = self.indices[(starts[:, None] + steps)[real]]
        return table


def open_dataset(folder: Path) -> Dataset:
    """Open and verify a data set that was stored: reads all of it once.

    Raises:
        DataError: it is missing, half-written or altered.
    """
    try:
        text = (folder / DESCRIPTION).read_bytes()
        description = json.loads(text)
        arrays = _open_arrays(folder, description["shape"])
        digests = {name: array_digest(array) for name, array in arrays.items()}
        if _digest(text) != folder.name or digests != description["sha256"]:
            raise DataError("it was altered")
        return Dataset(
            **arrays, found=Found(**description["found"]), digest=folder.name, folder=folder
        )
    except Exception as error:  # NumPy and zlib raise nearly anything for a file that is damaged
        raise DataError(f"{folder} is not a complete data set: {first_line(error)}") from error


def _open_arrays(folder: Path, shape: list[int]) -> dict[str, NDArray[Any]]:
    """The arrays of a data set by name, read-only; its images are memory-mapped."""
    arrays: dict[str, NDArray[Any]] = {
        "images": np.memmap(folder / IMAGES, np.uint8, "r", shape=tuple(shape))
    }
    with np.load(folder / ARRAYS, allow_pickle=False) as file:
        for name in file.files:
            arrays[name] = file[name]
            arrays[name].flags.writeable = False
    return arrays


def array_digest(array: NDArray[Any]) -> str:
    """SHA-256 of an array's dtype, shape and content."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return digest.hexdigest()


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


class ImageWriter(contextlib.AbstractContextManager["ImageWriter"]):
    """Writes distinct images to a file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._numbers: list[int] = []
        self._number_of: dict[bytes, int] = {}

    def add(self, image: NDArray[np.uint8]) -> None:
        """Write an image, uint8 `(C, H, W)`, unless it was written before."""
        content = image.tobytes()
        new = len(self._number_of)
        number = self._number_of.setdefault(hashlib.sha256(content).digest(), new)
        if number == new:
            self._file.write(content)
        self._numbers.append(number)

    def close(self) -> NDArray[np.int32]:
        """The number, among the distinct images, of each that was added, int32."""
        self._file.close()
        return np.array(self._numbers, np.int32)

    def __exit__(self, *_: object) -> None:
        self._file.close()


def find_stored(state: str) -> Dataset | None:
    """The data set that a source in this state was decoded to, if it is in the cache and valid."""
    try:
        digest = (_root() / f"{state}.source").read_text(encoding="ascii")
        return open_dataset(_root() / digest)
    except (OSError, ValueError, DataError):
        return None


@contextlib.contextmanager
def new_folder() -> Iterator[Path]:
    """An empty folder in the cache for one process at a time; others wait.

    Raises:
        DataError: the cache cannot be written.
    """
    root = None
    try:
        root = _root()
        root.mkdir(parents=True, exist_ok=True)
        with (root / ".lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            folder = root / ".new"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"cannot write the cache, {error.filename or root}: {error.strerror}; make room, or "
            f"name another folder with {CACHE_VARIABLE}"
        ) from error


def store(
    folder: Path,
    state: str,
    sequences: SequenceList,
    splits: NDArray[np.uint8],
    indices: NDArray[np.int32],
    found: Found,
) -> Dataset:
    """Complete the data set whose images are in a `new_folder`, and move it to its place.

    splits: indices of `SPLITS`, uint8 `(S,)`. indices: the distinct images of all sequences, int32
    `(R,)`.
    """
    np.savez(
        folder / ARRAYS,
        allow_pickle=False,
        indices=indices,
        lengths=sequences.lengths,
        targets=sequences.targets,
        splits=splits,
        groups=sequences.group_numbers(),
        names=np.array(sequences.names, np.str_),
    )
    shape = [int(indices.max()) + 1, found.channels, *found.size]
    arrays = _open_arrays(folder, shape)
    description = {
        "found": asdict(found),
        "shape": shape,
        "sha256": {name: array_digest(array) for name, array in arrays.items()},
    }
    text = json.dumps(description, indent=2).encode()
    (folder / DESCRIPTION).write_bytes(text)
    place = _root() / _digest(text)
    try:
        dataset = open_dataset(place)
    except DataError:
        shutil.rmtree(place, ignore_errors=True)
        folder.rename(place)
        dataset = open_dataset(place)
    (_root() / f"{state}.source").write_text(dataset.digest, encoding="ascii")
    return dataset


def _root() -> Path:
    return cache_folder() / "data"
