"""`Mirror`: keeps a run's local folder and its copy in an object store in step."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from crnn_search.storage.jsonl import Record
from crnn_search.storage.object_store import ObjectStore
from crnn_search.storage.retry import RETRY_FOR_S
from crnn_search.storage.run_folder import APPENDED, NOT_PUSHED

SEGMENT_LINES = 64
"""Lines of an append-only file in one object."""

THREADS = 16


@dataclass(frozen=True)
class _Segment:
    number: int = 0
    lines: tuple[bytes, ...] = ()


class Mirror:
    """A local folder and a run's folder in an object store.

    The store is the authority: the local folder is filled from it once and never trusted
    afterwards. check_lease: called before each write; raises if this process may not write.
    """

    def __init__(self, uri: str, root: Path) -> None:
        self.store = ObjectStore(uri)
        self.root = root
        self.check_lease: Callable[[], None] = lambda: None
        self._pushed: dict[str, tuple[int, int]] = {}
        self._session = _session(0)
        self._segments = {name: _Segment() for name in APPENDED}

    @property
    def uri(self) -> str:
        return self.store.uri

    def pull(self, retry_for_s: float = RETRY_FOR_S) -> None:
        """Fill the local folder, without checkpoints; segments are joined to whole files.

        retry_for_s: how long to wait for a store that cannot be reached.

        Raises:
            StorageError: the store cannot be read.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        found = self.store.names(retry_for_s=retry_for_s)
        names = [name for name in found if name.split("/")[0] not in NOT_PUSHED]
        segments = [name for name in names if _appended(name)]
        files = [name for name in names if not _appended(name)]
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda name: self.store.fetch(name, self.root / name), files))
            contents = list(pool.map(self.store.read, segments))
        for file in {_appended(name) for name in segments}:
            parts = [c for n, c in zip(segments, contents, strict=True) if _appended(n) == file]
            (self.root / str(file)).write_bytes(b"".join(part or b"" for part in parts))
        self._pushed = self._files()

    def start_session(self) -> None:
        """Start a session, whose segments come after all that exist.

        Raises:
            StorageError: the store cannot be read.
        """
        names = [name for name in self.store.names() if _appended(name)]
        sessions = [int(Path(name).name.split("-")[0]) for name in names]
        self._session = _session(max(sessions, default=0) + 1)
        self._segments = {name: _Segment() for name in APPENDED}

    def append(self, path: Path, record: Record) -> None:
        """Write a line of an append-only file to the store; the caller writes the local file.

        Raises:
            LeaseLostError: another process has taken over the run.
            StorageError: the store cannot be written.
        """
        self.check_lease()
        line = (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode()
        segment = self._segments[path.name]
        if len(segment.lines) >= SEGMENT_LINES:
            segment = _Segment(segment.number + 1)
        segment = _Segment(segment.number, (*segment.lines, line))
        name = f"{path.name}.d/{self._session}-{segment.number:06d}"
        self.store.write(name, b"".join(segment.lines))
        self._segments[path.name] = segment

    def push(self) -> None:
        """Write all files that have changed, those in folders first; remove those that are gone.

        Raises:
            LeaseLostError: another process has taken over the run.
            StorageError: the store cannot be written.
        """
        self.check_lease()
        files = self._files()
        for name in sorted(set(self._pushed) - set(files)):
            self.store.remove(name)
            del self._pushed[name]
        for name in sorted(files, key=lambda name: ("/" not in name, name)):
            if self._pushed.get(name) != files[name]:
                self.store.write(name, (self.root / name).read_bytes())
                self._pushed[name] = files[name]

    def remove(self) -> None:
        """Remove all objects of the run.

        Raises:
            StorageError: the store cannot be written.
        """
        for name in self.store.names():
            self.store.remove(name)

    def _files(self) -> dict[str, tuple[int, int]]:
        """Time and size of each local file that is pushed, by name."""
        found = {}
        for path in self.root.rglob("*"):
            name = path.relative_to(self.root)
            hidden = any(part.startswith(".") for part in name.parts)
            if path.is_file() and not hidden and name.parts[0] not in NOT_PUSHED:
                stat = path.stat()
                found[name.as_posix()] = (stat.st_mtime_ns, stat.st_size)
        return found


def _session(number: int) -> str:
    """The prefix of a session's segments: they sort by number; two processes never share one."""
    return f"{number:06d}-{secrets.token_hex(4)}"


def _appended(name: str) -> str | None:
    """The append-only file that an object is a segment of."""
    folder = name.split("/")[0]
    return next((file for file in APPENDED if folder == f"{file}.d"), None)
