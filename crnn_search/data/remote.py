"""Data sets in an object store: looked up, and copied into a folder to be read there."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from crnn_search.data.folder import METADATA, FolderIndex, is_inside
from crnn_search.data.images import Progress
from crnn_search.data.problems import Problems
from crnn_search.errors import DataError, StorageError
from crnn_search.storage.object_store import Found, ObjectStore
from crnn_search.storage.retry import READ_RETRY_FOR_S

THREADS = 16
"""Requests at once."""

PART = 8 * 2**20
"""Bytes that a request asks for: it has to end before its timeout."""


@dataclass(frozen=True)
class Remote:
    """A folder of images, or an `.npz` file, in an object store.

    objects: all that are in the folder, or the file alone, by name below the URI of `store`.
    """

    uri: str
    store: ObjectStore
    objects: dict[str, Found]

    @property
    def state(self) -> str:
        """A digest of names, sizes and versions (ETags)."""
        listed = [(name, found.size, found.version) for name, found in self.objects.items()]
        return hashlib.sha256(repr(listed).encode()).hexdigest()

    def copy(
        self, folder: Path, progress: Progress, index: Callable[[Path, Problems], FolderIndex]
    ) -> Path:
        """Copy what is needed into an empty folder; returns the place to read the data set from.

        Of a folder that is `metadata.csv`, and the files that it names. index: reads it.

        Raises:
            DataError: the store cannot be read, or `metadata.csv` is not valid.
            OSError: the folder cannot be written.
        """
        if _is_file(self.uri):
            (name,) = self.objects
            self._copy([name], folder, progress)
            return folder / name
        self._copy([name for name in self.objects if name == METADATA], folder, progress)
        files = index(folder, Problems(self.uri)).files
        names = {PurePosixPath(name).as_posix() for name in files if is_inside(name)}
        self._copy(sorted(names & self.objects.keys() - {METADATA}), folder, progress)
        return folder

    def _copy(self, names: list[str], folder: Path, progress: Progress) -> None:
        parts = []
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
            parts += [(name, start) for start in range(0, self.objects[name].size, PART)]

        def copy(part: tuple[str, int]) -> None:
            name, start = part
            content = self.store.read_part(name, start, PART)
            with (folder / name).open("r+b") as file:
                file.seek(start)
                file.write(content)

        with _readable(self.uri), ThreadPoolExecutor(THREADS) as pool:
            for done, _ in enumerate(pool.map(copy, parts), start=1):
                progress("downloading", done, len(parts))


def look_up(uri: str) -> Remote:
    """The data set at a URI.

    Raises:
        DataError: nothing is there, or the store cannot be read.
        InputError: it is not the URI of an object store.
    """
    place, mark, options = uri.partition("?")
    folder, _, name = place.rpartition("/") if _is_file(uri) else (place, "", "")
    store = ObjectStore(f"{folder}{mark}{options}", lambda _: None, READ_RETRY_FOR_S)
    with _readable(uri):
        if name:
            found = store.look_up(name)
            objects = {} if found is None else {name: found}
        else:
            objects = store.find()
    if not objects:
        raise DataError(
            f"nothing is at {uri}; data must be a folder with metadata.csv, or an .npz file"
        )
    return Remote(uri, store, objects)


def _is_file(uri: str) -> bool:
    return uri.partition("?")[0].endswith(".npz")


@contextlib.contextmanager
def _readable(uri: str) -> Iterator[None]:
    try:
        yield
    except StorageError as error:
        raise DataError(f"cannot read {uri}: {error.reason}") from error
