"""A run's local folder and its copy in an object store, kept in step."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crnn_search.storage.object_store import ObjectStore

SEGMENT_LINES = 64


APPENDED = ("journal.jsonl", "trials.jsonl")
"""The files that grow line by line."""


NOT_PUSHED = (*APPENDED, "checkpoints", "stop", "lease.json")
"""What has a way of its own into the store."""


THREADS = 16


@dataclass
class _Segment:
    number: int = 0
    lines: tuple[bytes, ...] = ()


class Mirror:
    """Keeps a local folder and a run's folder in an object store in step.

    The store is the authority: a folder is filled from it, once, and never trusted afterwards.
    """

    def __init__(self, uri: str, root: Path) -> None:
        self.store = ObjectStore(uri)
        self.root = root
        self.may_write: Callable[[], None] = lambda: None
        self._pushed: dict[str, tuple[int, int]] = {}
        self._session = f"{0:06d}-{secrets.token_hex(4)}"
        self._segments = {name: _Segment() for name in APPENDED}

    @property
    def uri(self) -> str:
        return self.store.uri

    def pull(self) -> None:
        """Fill the folder, checkpoints left out; segments become whole files again.

        Raises:
            StorageError: the store cannot be reached.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        names = [name for name in self.store.names() if name.split("/")[0] not in NOT_PUSHED]
        segments = [name for name in names if _appended(name)]
        whole = [name for name in names if not _appended(name)]
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda name: self.store.fetch(name, self.root / name), whole))
            contents = list(pool.map(self.store.read, segments))
        for file in {_appended(name) for name in segments}:
            parts = [c for n, c in zip(segments, contents, strict=True) if _appended(n) == file]
            (self.root / str(file)).write_bytes(b"".join(part or b"" for part in parts))
        self._pushed = self._files()

    def begin(self) -> None:
        """Begin a session: from now on its segments come after all that are there."""
        names = [name for name in self.store.names() if _appended(name)]
        sessions = [int(Path(name).name.split("-")[0]) for name in names]
        self._session = f"{max(sessions, default=0) + 1:06d}-{secrets.token_hex(4)}"
        self._segments = {name: _Segment() for name in APPENDED}

    def append(self, path: Path, record: dict[str, Any]) -> None:
        """Put a line of an append-only file into the store; its file is the caller's to write.

        Raises:
            StorageError: the store cannot be reached, or another process took the run over.
        """
        self.may_write()
        line = (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode()
        segment = self._segments[path.name]
        if len(segment.lines) >= SEGMENT_LINES:
            segment = _Segment(segment.number + 1)
        segment = _Segment(segment.number, (*segment.lines, line))
        name = f"{path.name}.d/{self._session}-{segment.number:06d}"
        self.store.write(name, b"".join(segment.lines))
        self._segments[path.name] = segment

    def push(self) -> None:
        """Put all files that have changed, those in folders first, and remove those that are gone.

        Raises:
            StorageError: the store cannot be reached, or another process took the run over.
        """
        self.may_write()
        files = self._files()
        for name in sorted(set(self._pushed) - set(files)):
            self.store.remove(name)
            del self._pushed[name]
        for name in sorted(files, key=lambda name: ("/" not in name, name)):
            if self._pushed.get(name) != files[name]:
                self.store.write(name, (self.root / name).read_bytes())
                self._pushed[name] = files[name]

    def remove(self) -> None:
        """Remove the whole run."""
        for name in self.store.names():
            self.store.remove(name)

    def _files(self) -> dict[str, tuple[int, int]]:
        """Time and size of each file that belongs into the store."""
        found = {}
        for path in self.root.rglob("*"):
            name = path.relative_to(self.root)
            hidden = any(part.startswith(".") for part in name.parts)
            if path.is_file() and not hidden and name.parts[0] not in NOT_PUSHED:
                stat = path.stat()
                found[name.as_posix()] = (stat.st_mtime_ns, stat.st_size)
        return found


def _appended(name: str) -> str | None:
    """The append-only file that an object is a segment of."""
    folder = name.split("/")[0]
    return next((file for file in APPENDED if folder == f"{file}.d"), None)
