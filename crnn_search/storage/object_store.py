"""`ObjectStore`: the objects below a URI that pyarrow knows.

An object store has neither locks nor a way to append; an object is written whole or not at all.
Failed requests are retried, with growing pauses, for `RETRY_FOR_S`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl, urlsplit

from pyarrow import fs

from crnn_search.errors import Action, InputError, StorageError
from crnn_search.storage.location import join
from crnn_search.storage.retry import RETRY_FOR_S, OnRetry

READ_RETRY_FOR_S = 10.0
"""The same for commands that only read runs: somebody waits for their output."""

FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 20.0

SLOW_S = 8.0
"""After so long without an answer `on_retry` is called: AWS's client itself retries for longer."""

TIMEOUT_S = 10.0
"""How long AWS's client waits for a connection, and for an answer, in each of three tries."""

S3_OPTIONS = ("region", "endpoint_override", "scheme")

NO_BUCKET = "NO_SUCH_BUCKET"

PERMANENT = (NO_BUCKET, "ACCESS_DENIED", "INVALID_ACCESS_KEY", "SIGNATURE", "does not exist")
"""Parts of the messages of errors that do not pass."""

T = TypeVar("T")
_log = logging.getLogger(__name__)


class ObjectStore:
    """The objects below a URI, named by their paths relative to it.

    uri: as `s3://bucket/prefix?endpoint_override=HOST:PORT&scheme=http`. on_retry: called with a
    message while the store cannot be reached.

    Raises:
        InputError: pyarrow does not know the URI, or it holds a password.
    """

    def __init__(self, uri: str, on_retry: OnRetry = _log.warning) -> None:
        parts = urlsplit(uri)
        if parts.username or parts.password:
            raise InputError(
                f"a storage may not name its credentials, which logs would repeat: "
                f"{parts.scheme}://…@{parts.hostname}; set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or give the machine a role"
            )
        self.uri, self.on_retry = uri, on_retry
        try:
            self._system, root = _s3(uri) if parts.scheme == "s3" else fs.FileSystem.from_uri(uri)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{uri!r} is not a storage that pyarrow knows: {error}") from error
        self._root = root.strip("/")
        self._bucket = self._root.partition("/")[0]

    def read(self, name: str, retry_for_s: float = RETRY_FOR_S) -> bytes | None:
        """An object's content; None if there is no such object.

        Raises:
            StorageError: the store cannot be read.
        """

        def read() -> bytes | None:
            try:
                with self._system.open_input_stream(self._path(name)) as file:
                    return bytes(file.read())
            except FileNotFoundError:
                return None

        return self._with_retries("read", name, read, retry_for_s)

    def write(self, name: str, content: bytes, retry_for_s: float = RETRY_FOR_S) -> None:
        """Write an object, whole or not at all.

        Raises:
            StorageError: the store cannot be written.
        """

        def write() -> None:
            with self._system.open_output_stream(self._path(name)) as file:
                file.write(content)

        self._with_retries("write", name, write, retry_for_s)

    def remove(self, name: str, retry_for_s: float = RETRY_FOR_S) -> None:
        """Remove an object, if it exists.

        Raises:
            StorageError: the store cannot be written.
        """

        def remove() -> None:
            if self._system.get_file_info(self._path(name)).type == fs.FileType.File:
                self._system.delete_file(self._path(name))

        self._with_retries("write", name, remove, retry_for_s)

    def names(self, below: str = "", retry_for_s: float = RETRY_FOR_S) -> list[str]:
        """The names of all objects below a folder, sorted.

        Raises:
            StorageError: the store cannot be read.
        """

        def names() -> list[str]:
            selector = fs.FileSelector(self._path(below), recursive=True, allow_not_found=True)
            found = self._system.get_file_info(selector)
            files = [info.path for info in found if info.type == fs.FileType.File]
            self._check_bucket(files)
            return sorted(path[len(self._root) + 1 :] for path in files)

        return self._with_retries("read", below, names, retry_for_s)

    def folders_with(self, name: str, retry_for_s: float = READ_RETRY_FOR_S) -> list[str]:
        """The names of the folders directly below the URI that have an object of this name.

        Raises:
            StorageError: the store cannot be read.
        """

        def folders() -> list[str]:
            found = self._system.get_file_info(fs.FileSelector(self._root, allow_not_found=True))
            names = sorted(i.base_name for i in found if i.type == fs.FileType.Directory)
            self._check_bucket(names)
            objects = self._system.get_file_info([self._path(f"{n}/{name}") for n in names])
            return [n for n, i in zip(names, objects, strict=True) if i.type == fs.FileType.File]

        return self._with_retries("read", "", folders, retry_for_s)

    def fetch(self, name: str, path: Path) -> None:
        """Copy an object to a file, if it exists.

        Raises:
            StorageError: the store cannot be read.
        """
        content = self.read(name)
        if content is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")

    def _with_retries(
        self, action: Action, name: str, request: Callable[[], T], retry_for_s: float
    ) -> T:
        """Return what `request` returns; retry it until it succeeds or `retry_for_s` are over."""
        location, start, pause = join(self.uri, name), time.monotonic(), FIRST_PAUSE_S
        with self._report_if_slow(location):
            while True:
                try:
                    result = request()
                    break
                except OSError as error:
                    passed = time.monotonic() - start
                    if passed >= retry_for_s or any(word in str(error) for word in PERMANENT):
                        raise StorageError(location, self._reason(error), action) from error
                    if pause == FIRST_PAUSE_S:
                        self.on_retry(
                            f"storage: {location} cannot be reached, retrying for "
                            f"{retry_for_s - passed:.0f} s; trials wait, none is lost: {error}"
                        )
                    time.sleep(pause)
                    pause = min(2 * pause, MAX_PAUSE_S)
        passed = time.monotonic() - start
        if pause > FIRST_PAUSE_S or passed > SLOW_S:
            self.on_retry(f"storage: reachable again after {passed:.0f} s")
        return result

    @contextlib.contextmanager
    def _report_if_slow(self, location: str) -> Iterator[None]:
        """Call `on_retry` if the block takes longer than `SLOW_S`."""
        message = f"storage: no answer from {location} yet; trials wait, none is lost"
        timer = threading.Timer(SLOW_S, self.on_retry, [message])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _check_bucket(self, found: list[str]) -> None:
        """Raise if nothing was found as there is no bucket: to pyarrow that is an empty folder."""
        if not found and self._system.get_file_info(self._bucket).type == fs.FileType.NotFound:
            raise OSError(NO_BUCKET)

    def _reason(self, error: OSError) -> str:
        if NO_BUCKET in str(error):
            return f"there is no bucket {self._bucket!r}"
        return str(error)


def _s3(uri: str) -> tuple[fs.FileSystem, str]:
    """An S3 file system with timeouts, which pyarrow's own reading of URIs cannot set, and a path.

    Raises:
        InputError: the URI has an unknown option.
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
