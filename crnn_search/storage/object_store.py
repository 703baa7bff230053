"""Folders of an object store, named by a URI that pyarrow knows, and a run's mirror in one.

An object store has neither locks nor a way to append. A file is put whole or not at all; the lines
of an append-only file lie in numbered segments, small objects of which only the newest is put
again and again (`docs/decisions/0010`). What fails is tried again, with growing pauses, for
`PATIENCE_S`.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
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
