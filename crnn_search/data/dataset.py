"""A data set as it is trained on: decoded, split, in the cache folder and memory-mapped.

    data/DIGEST/          a data set; DIGEST is the SHA-256 of its dataset.json
      images.uint8        distinct images, (I, C, H, W)
      sequences.npz       indices, lengths, targets, splits, groups, names
      dataset.json        shape, summary, and the SHA-256 of each array
    data/STATE.source     the digest of what a source, in this state, was decoded to

A data set is moved to its place whole, so that processes which write the same one do not disturb
each other. It is verified each time it is opened.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crnn_search.data.sequence_list import SPLITS
from crnn_search.data.summary import Content, Summary, summarise
from crnn_search.errors import DataError
from crnn_search.storage.cache import CACHE_VARIABLE, cache_folder
from crnn_search.storage.files import write_text

FORMAT = 1
"""Changes with the files' format and with how images are decoded."""

ZIP_ERRORS = (zipfile.BadZipFile, zlib.error)

IMAGES, SEQUENCES, DESCRIPTION = "images.uint8", "sequences.npz", "dataset.json"

_TEMPORARY = ".new-"

_ABANDONED_AFTER_S = 24 * 3600
"""Age of a temporary folder whose process has ended."""


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
    summary: Summary
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

    Raises:
        DataError: it is missing, half-written or altered.
    """
    try:
        text = (folder / DESCRIPTION).read_bytes()
        if hashlib.sha256(text).hexdigest() != folder.name:
            raise DataError(f"{folder / DESCRIPTION} was altered")
        description = json.loads(text)
        summary = Summary(**description["summary"])
        arrays = _open_arrays(folder, tuple(description["shape"]))
        for name, array in arrays.items():
            if array_digest(array) != description["sha256"][name]:
                raise DataError(f"{name} in {folder} was altered")
            array.flags.writeable = False
    except (OSError, ValueError, KeyError, TypeError, EOFError, *ZIP_ERRORS) as error:
        raise DataError(f"{folder} is no complete data set: {error}") from error
    return Dataset(**arrays, summary=summary, digest=folder.name, folder=folder)


def _open_arrays(folder: Path, shape: tuple[int, ...]) -> dict[str, NDArray[Any]]:
    """The arrays of a data set by name; its images are memory-mapped."""
    images = np.memmap(folder / IMAGES, np.uint8, "r", shape=shape)
    with np.load(folder / SEQUENCES, allow_pickle=False) as file:
        return {"images": images} | {name: file[name] for name in file.files}


def array_digest(array: NDArray[Any]) -> str:
    """SHA-256 of an array's dtype, shape and content."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return digest.hexdigest()


class ImageWriter(contextlib.AbstractContextManager["ImageWriter"]):
    """Writes distinct images to a file.

    numbers: the number, among the distinct ones, of each image that was added.
    """

    def __init__(self, path: Path) -> None:
        self.numbers: list[int] = []
        self._file = path.open("wb")
        self._number_of: dict[bytes, int] = {}

    def add(self, image: NDArray[np.uint8]) -> None:
        """Write an image, uint8 `(C, H, W)`, unless it was written before."""
        content = image.tobytes()
        new = len(self._number_of)
        digest = hashlib.blake2b(content, digest_size=16).digest()
        number = self._number_of.setdefault(digest, new)
        if number == new:
            self._file.write(content)
        self.numbers.append(number)

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
    """A temporary folder in the cache; what is in it at the end is removed.

    Raises:
        DataError: the cache cannot be written.
    """
    root = _root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        for old in root.glob(f"{_TEMPORARY}*"):
            with contextlib.suppress(FileNotFoundError):  # its process has removed it
                if time.time() - old.stat().st_mtime > _ABANDONED_AFTER_S:
                    shutil.rmtree(old, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=_TEMPORARY) as temporary:
            folder = Path(temporary) / "data"
            folder.mkdir()  # with the usual permissions
            yield folder
    except OSError as error:
        raise DataError(
            f"cannot write the cache {root}: {error.strerror or error}; make room, or name another "
            f"folder with {CACHE_VARIABLE}"
        ) from error


def store(state: str, folder: Path, content: Content) -> Dataset:
    """Complete the data set whose images are in a temporary folder, and move it to its place."""
    sequences, summary = content.sequences, summarise(content)
    np.savez(
        folder / SEQUENCES,
        allow_pickle=False,
        indices=content.indices,
        lengths=sequences.lengths,
        targets=sequences.targets,
        splits=content.splits,
        groups=sequences.group_numbers(),
        names=np.array(sequences.names, np.str_),
    )
    shape = (summary.distinct_images, summary.channels, *summary.size)
    arrays = _open_arrays(folder, shape)
    description = {
        "shape": shape,
        "summary": asdict(summary),
        "sha256": {name: array_digest(array) for name, array in arrays.items()},
    }
    text = json.dumps(description, indent=2).encode()
    (folder / DESCRIPTION).write_bytes(text)
    digest = hashlib.sha256(text).hexdigest()
    with _lock():
        dataset = _publish(folder, _root() / digest)
    write_text(_root() / f"{state}.source", digest)
    return dataset


def _publish(folder: Path, place: Path) -> Dataset:
    """Move a data set to its place, unless the same one is there and valid."""
    try:
        return open_dataset(place)
    except DataError:
        if place.exists():
            place.rename(folder.parent / "replaced")
        folder.rename(place)
    return open_dataset(place)


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """Let one process at a time change what is in place."""
    with (_root() / ".lock").open("wb") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _root() -> Path:
    return cache_folder() / "data"
