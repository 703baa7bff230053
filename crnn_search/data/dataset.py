"""A data set as it is trained on: decoded, split, in the cache folder and memory-mapped.

data/DIGEST/          a data set; DIGEST is the SHA-256 of its dataset.json
  images.uint8        distinct images, (I, C, H, W): those that only test sequences have come last
  arrays.npz          indices, lengths, targets, splits, groups, names
  dataset.json        what was found in the source; shape of the images; SHA-256 of the others
data/DIGEST.verified  sizes and times that the two had when their SHA-256 were verified
data/STATE.source     the digest of what a source, in this state, was decoded to
data/.new/            what a process decodes that has locked .new.lock
data/.download/       the same of what a process fetches from an object store
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
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

    target: its name. formats: rows, columns and channels of images as they were, and how many there
    were of each. split_by: `given`, or what was drawn, `group` or `sequence`. notes: warnings.
    """

    target: str
    formats: list[list[int]]
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
    """Open and verify a data set that was stored.

    Its content is read only if the times of its files are not those of the last time.

    Raises:
        DataError: it is missing, half-written or altered.
    """
    try:
        text = (folder / DESCRIPTION).read_bytes()
        description = json.loads(text)
        if hashlib.sha256(text).hexdigest() != folder.name or not _is_intact(folder, description):
            raise DataError("it was altered")
        with (folder / ARRAYS).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = dict(stored)
        for array in arrays.values():
            array.flags.writeable = False
        images = np.memmap(folder / IMAGES, np.uint8, "r", shape=tuple(description["shape"]))
        found = Found(**description["found"])
        return Dataset(images, **arrays, found=found, digest=folder.name, folder=folder)
    except Exception as error:  # NumPy and zlib raise nearly anything for a file that is damaged
        raise DataError(f"{folder} is not a complete data set: {first_line(error)}") from error


def _is_intact(folder: Path, description: dict[str, Any]) -> bool:
    """Whether images and arrays are those that were written."""
    found = [(folder / name).stat() for name in (IMAGES, ARRAYS)]
    state = " ".join(f"{file.st_size} {file.st_mtime_ns} {file.st_ctime_ns}" for file in found)
    verified = folder.with_name(f"{folder.name}.verified")
    if verified.is_file() and verified.read_bytes() == state.encode():
        return True
    if description["sha256"] != {name: _file_digest(folder / name) for name in (IMAGES, ARRAYS)}:
        return False
    with contextlib.suppress(OSError):  # a cache that can only be read
        verified.write_text(state, encoding="ascii")
    return True


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find(digest: str) -> Dataset | None:
    """The data set with this digest, if it is in the cache and valid."""
    try:
        return open_dataset(_root() / digest)
    except DataError:
        return None


def find_stored(state: str) -> Dataset | None:
    """The data set that a source in this state was decoded to, if it is in the cache and valid."""
    try:
        return find((_root() / f"{state}.source").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def store(
    state: str,
    sequences: SequenceList,
    splits: NDArray[np.uint8],
    images: Iterable[NDArray[np.uint8]],
    entries: NDArray[np.int64],
    found: Found,
) -> Dataset:
    """Write a data set into the cache, unless another process did it meanwhile.

    splits: indices of `SPLITS`, uint8 `(S,)`. images: uint8 `(C, H, W)` each; identical ones are
    written once. entries: the image of each step of each sequence, in order, int64 `(R,)`; images
    that only test sequences have must be the last ones, see `test_last`.

    Raises:
        DataError: the cache cannot be written.
    """
    with new_folder(".new") as folder:
        if (stored := find_stored(state)) is not None:
            return stored
        numbers, shape = _write_images(folder / IMAGES, images)
        np.savez(
            folder / ARRAYS,
            allow_pickle=False,
            indices=numbers[entries],
            lengths=sequences.lengths,
            targets=sequences.targets,
            splits=splits,
            groups=sequences.group_numbers(),
            names=np.array(sequences.names, np.str_),
        )
        digests = {name: _file_digest(folder / name) for name in (IMAGES, ARRAYS)}
        description = {"found": asdict(found), "shape": shape, "sha256": digests}
        text = json.dumps(description, indent=2).encode()
        (folder / DESCRIPTION).write_bytes(text)
        dataset = _move(folder, _root() / hashlib.sha256(text).hexdigest())
        (_root() / f"{state}.source").write_text(dataset.digest, encoding="ascii")
        return dataset


def _move(folder: Path, place: Path) -> Dataset:
    """Move a data set to its place, unless the same one is there and not damaged."""
    try:
        return open_dataset(place)
    except DataError:
        shutil.rmtree(place, ignore_errors=True)
        folder.rename(place)
        return open_dataset(place)


def _write_images(
    path: Path, images: Iterable[NDArray[np.uint8]]
) -> tuple[NDArray[np.int32], list[int]]:
    """Write distinct images to a file; returns each image's number among them, and their shape."""
    number_of: dict[bytes, int] = {}
    numbers = []
    with path.open("wb") as file:
        for image in images:
            content = image.tobytes()
            new = len(number_of)
            numbers.append(number_of.setdefault(hashlib.sha256(content).digest(), new))
            if numbers[-1] == new:
                file.write(content)
    return np.array(numbers, np.int32), [len(number_of), *image.shape]


@contextlib.contextmanager
def new_folder(name: str) -> Iterator[Path]:
    """An empty folder in the cache, removed at the end, for one process at a time; others wait.

    Raises:
        DataError: it cannot be written.
    """
    root = None
    try:
        root = _root()
        root.mkdir(parents=True, exist_ok=True)
        with (root / f"{name}.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            folder = root / name
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


def _root() -> Path:
    return cache_folder() / "data"
