"""`ObjectStore`: the objects below a URI, by obstore.

An object store has neither locks nor a way to append; an object is written whole or not at all.
obstore retries requests that fail, with growing pauses.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError

from crnn_search.errors import Action, StorageError
from crnn_search.storage.files import writing
from crnn_search.storage.location import join
from crnn_search.storage.retry import RETRY_FOR_S, OnRetry
from crnn_search.storage.store_uri import connect, split
from crnn_search.text import first_line

if TYPE_CHECKING:
    from obstore import PutMode, UpdateVersion

SLOW_S = 8.0
"""After so long without an answer `on_retry` is called."""

T = TypeVar("T")
_log = logging.getLogger(__name__)


class ChangedError(Exception):
    """An object is not what a conditional write expects."""


@dataclass(frozen=True)
class Found:
    """An object in a listing. version: changes whenever it is written (an ETag); size: in bytes."""

    version: UpdateVersion
    size: int


class ObjectStore:
    """The objects below a URI, named by their paths relative to it.

    uri: as `s3://bucket/prefix?endpoint_override=HOST:PORT&scheme=http`. on_retry: called with a
    message while the store cannot be reached. retry_for_s: how long a failed request is retried.

    Raises:
        InputError: the URI is of no object store, is ambiguous, or holds a password.
    """

    def __init__(
        self, uri: str, on_retry: OnRetry = _log.warning, retry_for_s: float = RETRY_FOR_S
    ) -> None:
        self.uri, self.on_retry, self.retry_for_s = uri, on_retry, retry_for_s
        self._store = connect(uri, retry_for_s)
        parts = split(uri)
        self._bucket, path = parts.netloc, parts.path.strip("/")
        self._prefix = f"{path}/" if path else ""

    def copy(self, on_retry: OnRetry, retry_for_s: float = RETRY_FOR_S) -> ObjectStore:
        """The same store with another `on_retry` and time for retries."""
        return ObjectStore(self.uri, on_retry, retry_for_s)

    def read(self, name: str) -> bytes | None:
        """An object's content; None if there is no such object.

        Raises:
            StorageError: the store cannot be read.
        """
        found = self.read_version(name)
        return found[0] if found else None

    def read_version(self, name: str) -> tuple[bytes, UpdateVersion] | None:
        """An object's content and its version, for `replace`; None if there is no such object.

        Raises:
            StorageError: the store cannot be read.
        """

        def read() -> tuple[bytes, UpdateVersion] | None:
            try:
                found = obstore.get(self._store, self._prefix + name)
                return bytes(found.bytes()), _version(found.meta)
            except (FileNotFoundError, NotFoundError) as error:
                if _is_no_bucket(error):
                    raise
                return None

        return self._request("read", name, read)

    def read_part(self, name: str, start: int, length: int) -> bytes:
        """`length` bytes of an object from `start` on, or as many as there are.

        Raises:
            StorageError: the store cannot be read, or has no such object.
        """
        path = self._prefix + name
        part = self._request(
            "read", name, lambda: obstore.get_range(self._store, path, start=start, length=length)
        )
        return bytes(part)

    def look_up(self, name: str) -> Found | None:
        """An object as a listing has it; None if there is no such object.

        Raises:
            StorageError: the store cannot be read.
        """

        def look_up() -> Found | None:
            try:
                meta = obstore.head(self._store, self._prefix + name)
                return Found(_version(meta), meta["size"])
            except (FileNotFoundError, NotFoundError) as error:
                if _is_no_bucket(error):
                    raise
                return None

        return self._request("read", name, look_up)

    def write(self, name: str, content: bytes) -> None:
        """Write an object, whole or not at all.

        Raises:
            StorageError: the store cannot be written.
        """
        path = self._prefix + name
        self._request("write", name, lambda: obstore.put(self._store, path, content))

    def replace(self, name: str, content: bytes, version: UpdateVersion | None) -> UpdateVersion:
        """Write an object if it still has this version, or does not exist if None; its new version.

        Raises:
            ChangedError: it has another, maybe as a write before succeeded whose answer was lost.
            StorageError: the store cannot be written.
        """
        path, mode = self._prefix + name, _mode(version)
        try:
            put = self._request(
                "write", name, lambda: obstore.put(self._store, path, content, mode=mode)
            )
        except (AlreadyExistsError, PreconditionError, FileExistsError) as error:
            raise ChangedError(join(self.uri, name)) from error
        return _version(put)

    def remove(self, *names: str) -> None:
        """Remove objects, if they exist.

        Raises:
            StorageError: the store cannot be written.
        """

        def remove() -> None:
            try:
                obstore.delete(self._store, [self._prefix + name for name in names])
            except (FileNotFoundError, NotFoundError) as error:
                if _is_no_bucket(error):
                    raise

        if names:
            self._request("write", names[0], remove)

    def find(self, below: str = "") -> dict[str, Found]:
        """All objects below a folder by name, sorted.

        Raises:
            StorageError: the store cannot be read.
        """

        def find() -> dict[str, Found]:
            chunks = obstore.list(self._store, (self._prefix + below).rstrip("/") or None)
            found = {meta["path"][len(self._prefix) :]: meta for chunk in chunks for meta in chunk}
            return {
                name: Found(_version(meta), meta["size"]) for name, meta in sorted(found.items())
            }

        return self._request("read", below, find)

    def names(self, below: str = "") -> list[str]:
        """The names of all objects below a folder, sorted.

        Raises:
            StorageError: the store cannot be read.
        """
        return list(self.find(below))

    def folders(self) -> list[str]:
        """The names of the folders directly below the URI, sorted, by one request.

        Raises:
            StorageError: the store cannot be read.
        """
        prefix = self._prefix.rstrip("/") or None
        listed = self._request("read", "", lambda: obstore.list_with_delimiter(self._store, prefix))
        return sorted(path.rstrip("/").rpartition("/")[2] for path in listed["common_prefixes"])

    def fetch(self, name: str, path: Path) -> None:
        """Copy an object to a file, if it exists.

        Raises:
            StorageError: the store cannot be read, or the file cannot be written.
        """
        content = self.read(name)
        if content is not None:
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)

    def _request(self, action: Action, name: str, request: Callable[[], T]) -> T:
        """Return what `request` returns; call `on_retry` if that takes longer than `SLOW_S`.

        It runs in a thread, since Ctrl-C cannot interrupt obstore.
        """
        location, start, future = join(self.uri, name), monotonic(), Future[T]()
        threading.Thread(target=_run, args=[request, future], daemon=True).start()
        report = self.on_retry if self.retry_for_s else _log.debug
        slow = not wait([future], SLOW_S).done
        if slow:
            report(f"storage: no answer from {location} yet; trials wait, none is lost")
        try:
            result = future.result()
        except (AlreadyExistsError, PreconditionError, FileExistsError):
            raise
        except (BaseError, OSError) as error:
            raise StorageError(location, self._reason(error), action) from error
        if slow:
            report(f"storage: reachable again after {monotonic() - start:.0f} s")
        return result

    def _reason(self, error: Exception) -> str:
        if _is_no_bucket(error):
            return f"there is no bucket {self._bucket!r}"
        return first_line(error)


def _run(request: Callable[[], T], future: Future[T]) -> None:
    try:
        future.set_result(request())
    except BaseException as error:  # raised where the result is asked for
        future.set_exception(error)


def _version(meta: obstore.ObjectMeta | obstore.PutResult) -> UpdateVersion:
    """What a conditional write expects. obstore refuses a version of None."""
    version: UpdateVersion = {"e_tag": meta["e_tag"]}
    if meta["version"] is not None:
        version["version"] = meta["version"]
    return version


def _mode(version: UpdateVersion | None) -> PutMode:
    return version or "create"


def _is_no_bucket(error: Exception) -> bool:
    """Whether an error has S3's code for that; obstore's classes do not tell it from no object."""
    return "NoSuchBucket" in str(error)
