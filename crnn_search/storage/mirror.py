"""`Mirror`: keeps a run's local folder and its copy in an object store in step."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crnn_search.storage.jsonl import Record
from crnn_search.storage.object_store import Found, ObjectStore
from crnn_search.storage.retry import READ_RETRY_FOR_S
from crnn_search.storage.run_folder import APPENDED, LEASE, NOT_PUSHED, STAGES
from crnn_search.storage.store_lease import FREE

if TYPE_CHECKING:
    from obstore import UpdateVersion

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

    Until a process has the lease, requests are retried for `READ_RETRY_FOR_S` only.
    """

    def __init__(self, uri: str, root: Path) -> None:
        self.store = ObjectStore(uri, retry_for_s=READ_RETRY_FOR_S)
        self.root = root
        self._listed: dict[str, Found] = {}
        self._fetched: dict[str, UpdateVersion] = {}
        self._segment_bytes: dict[str, bytes] = {}
        self.check_lease: Callable[[], None] = lambda: None
        self._pushed: dict[str, tuple[int, int]] = {}
        self._session = _session(0)
        self._segments = {name: _Segment() for name in APPENDED}

    @property
    def uri(self) -> str:
        return self.store.uri

    def pull(self, wanted: Collection[str] | None = None) -> None:
        """Fill the local folder, without checkpoints; segments are joined to whole files.

        What has been fetched before and has not changed is not fetched again.

        wanted: files and folders, such as `space.yaml` or `model`; None for all.

        Raises:
            StorageError: the store cannot be read.
        """
        self._listed = self.store.find()
        self._fetch(wanted)

    def pull_more(self, wanted: Collection[str]) -> None:
        """Fetch more of what the last `pull` has listed. Raises as `pull` does."""
        self._fetch(wanted)

    def has(self, name: str) -> bool:
        """Whether the store had a file or a folder at the last `pull` that was not fetched."""
        return any(
            listed == name or listed.startswith(f"{name}/")
            for listed in self._listed.keys() - self._fetched.keys()
        )

    def size(self, name: str) -> int | None:
        """The size of a file at the last `pull`, in bytes; None if there was none."""
        parts = [n for n in self._listed if name in {n, _appended(n)}]
        return sum(self._listed[n].size for n in parts) if parts else None

    @property
    def was_leased(self) -> bool:
        """Whether the lease had an owner, dead or alive, at the last `pull`."""
        return LEASE in self._listed and self._listed[LEASE].size > len(FREE)

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
        text = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        line = text.encode(errors="backslashreplace")
        segment = self._segments[path.name]
        if len(segment.lines) >= SEGMENT_LINES:
            segment = _Segment(segment.number + 1)
        segment = _Segment(segment.number, (*segment.lines, line))
        name = f"{path.name}.d/{self._session}-{segment.number:06d}"
        self.store.write(name, b"".join(segment.lines))
        self._segments[path.name] = segment

    def push(self) -> None:
        """Remove files that are gone; write those that have changed, those in folders first.

        The list of the stages' files is written last: what it lists is then in the store.

        Raises:
            LeaseLostError: another process has taken over the run.
            StorageError: the store cannot be written.
        """
        self.check_lease()
        files = self._files()
        for name in sorted(set(self._pushed) - set(files)):
            self.store.remove(name)
            del self._pushed[name]
        for name in sorted(files, key=lambda name: (name == STAGES, "/" not in name, name)):
            if self._pushed.get(name) != files[name]:
                self.store.write(name, (self.root / name).read_bytes())
                self._pushed[name] = files[name]

    def remove(self) -> None:
        """Remove all objects of the run.

        Raises:
            StorageError: the store cannot be written.
        """
        self.store.remove(*self.store.names())

    def _fetch(self, wanted: Collection[str] | None) -> None:
        names = [name for name in self._listed if _is_wanted(name, wanted)]
        new = [name for name in names if self._fetched.get(name) != self._listed[name].version]
        if not new:
            return
        self.root.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(min(THREADS, len(new))) as pool:
            contents = dict(zip(new, pool.map(self.store.read, new), strict=True))
        for name, content in contents.items():
            if content is None:  # removed since
                continue
            self._fetched[name] = self._listed[name].version
            if _appended(name):
                self._segment_bytes[name] = content
            else:
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                (self.root / name).write_bytes(content)
        for file in {_appended(name) for name in new} - {None}:
            parts = [c for n, c in sorted(self._segment_bytes.items()) if _appended(n) == file]
            (self.root / str(file)).write_bytes(b"".join(parts))
        self._pushed = self._files()

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


def _is_wanted(name: str, wanted: Collection[str] | None) -> bool:
    """Whether an object is fetched: one that is asked for, or all but what trials and lease own."""
    top = _appended(name) or name.split("/")[0]
    if wanted is None:
        return top in APPENDED or top not in NOT_PUSHED
    return top in wanted


def _appended(name: str) -> str | None:
    """The append-only file that an object is a segment of."""
    folder = name.split("/")[0]
    return next((file for file in APPENDED if folder == f"{file}.d"), None)
