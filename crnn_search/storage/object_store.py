"""Folders of an object store, named by a URI that pyarrow knows, and a run's mirror in one.

An object store has neither locks nor a way to append. A file is put whole or not at all; the lines
of an append-only file lie in numbered segments, small objects of which only the newest is put
again and again (`docs/decisions/0010`). What fails is tried again, with growing pauses, for
`PATIENCE_S`.
"""

from __future__ import annotations

import itertools
import json
import logging
import secrets
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from pyarrow import fs

from crnn_search.errors import InputError, StorageError
from crnn_search.storage.retry import PATIENCE_S

READ_PATIENCE_S = 10.0
"""The same for commands that only look at runs: somebody waits for them."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 20.0
SLOW_S = 8.0
"""After so long without an answer, a warning is due; AWS's client itself tries for longer."""

TIMEOUT_S = 10.0
"""How long AWS's client waits for a connection, and for an answer, each of three times."""

S3_OPTIONS = ("region", "endpoint_override", "scheme")
SEGMENT_LINES = 64
APPENDED = ("journal.jsonl", "trials.jsonl")
"""The files that grow line by line."""

NOT_PUSHED = (*APPENDED, "checkpoints", "stop", "lease.json")
"""What has a way of its own into the store."""

THREADS = 16
FINAL = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY", "SIGNATURE", "does not exist")
"""Parts of the messages of errors that no waiting mends."""

Warn = Callable[[str], None]
T = TypeVar("T")
_log = logging.getLogger(__name__)


def is_uri(place: str) -> bool:
    """Whether a place is an object store's, not a folder."""
    return "://" in place


class ObjectStore:
    """A folder of an object store.

    uri: as `s3://bucket/prefix?endpoint_override=HOST:PORT&scheme=http`. warn: hears of trouble.

    Raises:
        InputError: the URI is none, or holds a password.
    """

    def __init__(self, uri: str, warn: Warn = _log.warning) -> None:
        parts = urlsplit(uri)
        if parts.username or parts.password:
            raise InputError(
                f"a storage may not name its credentials, which logs would repeat: "
                f"{parts.scheme}://…@{parts.hostname}; set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or give the machine a role"
            )
        self.uri, self.warn = uri, warn
        try:
            self._system, root = _s3(uri) if parts.scheme == "s3" else fs.FileSystem.from_uri(uri)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{uri!r} is no storage that pyarrow knows: {error}") from error
        self._root = root.strip("/")

    def read(self, name: str, patience_s: float = PATIENCE_S) -> bytes | None:
        """An object's content; None if there is none."""

        def read() -> bytes | None:
            try:
                with self._system.open_input_stream(self._path(name)) as file:
                    return bytes(file.read())
            except FileNotFoundError:
                return None

        return self._patiently(read, name, patience_s)

    def write(self, name: str, content: bytes, patience_s: float = PATIENCE_S) -> None:
        """Put an object, whole or not at all.

        Raises:
            StorageError: the store could not be reached for so long, or refuses.
        """

        def write() -> None:
            with self._system.open_output_stream(self._path(name)) as file:
                file.write(content)

        self._patiently(write, name, patience_s)

    def remove(self, name: str, patience_s: float = PATIENCE_S) -> None:
        """Remove an object, if it is there."""

        def remove() -> None:
            if self._system.get_file_info(self._path(name)).type == fs.FileType.File:
                self._system.delete_file(self._path(name))

        self._patiently(remove, name, patience_s)

    def names(self, under: str = "", patience_s: float = PATIENCE_S) -> list[str]:
        """The names of all objects under a folder, relative to the store's."""
        folder = self._path(under)

        def names() -> list[str]:
            selector = fs.FileSelector(folder, recursive=True, allow_not_found=True)
            found = self._system.get_file_info(selector)
            files = [info.path for info in found if info.type == fs.FileType.File]
            return sorted(path[len(self._root) + 1 :] for path in files)

        return self._patiently(names, under, patience_s)

    def folders(self, holding: str) -> list[str]:
        """The names of the folders right in it that hold an object of this name."""

        def folders() -> list[str]:
            found = self._system.get_file_info(fs.FileSelector(self._root, allow_not_found=True))
            names = sorted(i.base_name for i in found if i.type == fs.FileType.Directory)
            held = self._system.get_file_info([self._path(f"{name}/{holding}") for name in names])
            return [n for n, i in zip(names, held, strict=True) if i.type == fs.FileType.File]

        return self._patiently(folders, "", READ_PATIENCE_S)

    def fetch(self, name: str, path: Path) -> None:
        """Copy an object into a file; nothing if there is none."""
        content = self.read(name)
        if content is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")

    def _patiently(self, work: Callable[[], T], name: str, patience_s: float) -> T:
        place, began = join(self.uri, name), time.monotonic()
        slow = f"storage: no answer from {place} yet; trials wait, none is lost"
        timer = threading.Timer(SLOW_S, self.warn, [slow])
        timer.daemon = True
        timer.start()
        try:
            result, tries = self._try(work, place, patience_s)
        finally:
            timer.cancel()
        passed = time.monotonic() - began
        if tries > 1 or passed > SLOW_S:
            self.warn(f"storage: reached again after {passed:.0f} s")
        return result

    def _try(self, work: Callable[[], T], place: str, patience_s: float) -> tuple[T, int]:
        """The result, and how many tries it took."""
        began, pause = time.monotonic(), FIRST_PAUSE_S
        for tries in itertools.count(1):
            try:
                return work(), tries
            except OSError as error:
                passed = time.monotonic() - began
                if passed >= patience_s or any(word in str(error) for word in FINAL):
                    raise StorageError(place, str(error)) from error
                if tries == 1:
                    self.warn(
                        f"storage: {place} cannot be reached, trying again for "
                        f"{patience_s - passed:.0f} s; trials wait, none is lost: {error}"
                    )
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
        raise AssertionError("counting ends")


def _s3(uri: str) -> tuple[fs.FileSystem, str]:
    """An S3 file system that gives up on a server that hangs, and the path in it.

    pyarrow's own reading of URIs leaves no room for timeouts.
    """
    parts = urlsplit(uri)
    options = dict(parse_qsl(parts.query))
    unknown = sorted(set(options) - set(S3_OPTIONS))
    if unknown:
        raise InputError(
            f"an s3:// storage takes the options {', '.join(S3_OPTIONS)}, got {unknown[0]!r}"
        )
    if not options.keys() & {"region", "endpoint_override"}:
        options["region"] = fs.resolve_s3_region(parts.netloc)
    system = fs.S3FileSystem(
        connect_timeout=TIMEOUT_S, request_timeout=TIMEOUT_S, allow_delayed_open=True, **options
    )
    return system, f"{parts.netloc}{parts.path}"


def join(place: str, *names: str) -> str:
    """A place below a folder or a URI, whose options stay at its end."""
    path, mark, options = place.partition("?")
    return "/".join([path.rstrip("/"), *(name for name in names if name)]) + mark + options


def why_unseen(place: str, name: str, content: bytes) -> str | None:
    """Why this machine cannot use a folder or an object store that holds a file, or None."""
    try:
        if is_uri(place):
            store = ObjectStore(place)
            found = store.read(name, patience_s=0)
            if found == content:
                mine = f".seen-{secrets.token_hex(4)}"
                store.write(mine, b"", patience_s=0)
                store.remove(mine, patience_s=0)
        else:
            found = (Path(place) / name).read_bytes()
            if found == content:
                with tempfile.NamedTemporaryFile(dir=place, prefix=".seen-"):
                    pass
    except FileNotFoundError:
        return "it has no such folder"
    except OSError as error:
        return f"it cannot use it: {error.strerror}"
    except StorageError as error:
        return f"it cannot use it: {error}"
    return None if found == content else "it finds something else there"


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
