"""The lease of a run in an object store, which has no locks (`docs/decisions/0021`).

The lease is an object, `lease.json`, that names its owner and a heartbeat: a number that the owner
raises every few seconds. It is only written by compare-and-swap: a write succeeds if the object
still has the version that the writer knows, so that of two processes one succeeds. Whoever sees the
version unchanged for long enough, by its own clock, may acquire the lease; no two clocks need to
agree. The owner writes to the run only if it has renewed the lease within a shorter time.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from crnn_search.errors import LeaseLostError, StorageError
from crnn_search.storage.object_store import ChangedError, ObjectStore
from crnn_search.storage.run_folder import LEASE, STOP

if TYPE_CHECKING:
    from obstore import UpdateVersion

HEARTBEAT_S = 3.0
"""How often the owner raises the number, and looks for a request to stop."""

VALID_S = 9.0
"""How long the owner may write after it has renewed the lease."""

STALE_S = 20.0
"""An owner whose number does not change for so long has lost the lease."""

LOOK_S = 7.0
"""How long commands that only show runs wait for a heartbeat."""

TRIES = 3
"""Conditional writes of `check`; between two it waits while the store cannot be reached."""

FREE = b"{}"
"""The lease of a run that no process has."""

THREADS = 16


class StoreLease:
    """A lease that this process acquires, and may lose."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._quick = store.copy(store.on_retry, retry_for_s=0)
        self._owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(8)}"
        self._number = 0
        self._version: UpdateVersion | None = None
        self._refreshed = 0.0
        self._healthy = True
        self._renewing = threading.Lock()

    def acquire(self, on_wait: Callable[[], None] = lambda: None) -> None:
        """Acquire the lease, if it is free or its owner shows no heartbeat for `STALE_S`.

        on_wait: called before waiting for a heartbeat.

        Raises:
            LeaseLostError: another process has it, or was faster.
            StorageError: the store cannot be read or written.
        """
        content, self._version = self._store.read_version(LEASE) or (FREE, None)
        found = _owner(content)
        if found:
            on_wait()
            if have_heartbeat([self._store], STALE_S) == [True]:
                raise LeaseLostError(self._store.uri, found)
        self._renew(self._store)

    def check(self) -> None:
        """Check that this process may write; waits while the store cannot be reached.

        Raises:
            LeaseLostError: another process has the lease.
            StorageError: the store cannot be read or written.
        """
        for tries_left in reversed(range(TRIES)):
            if _now() - self._refreshed <= VALID_S:
                return
            try:
                self._renew(self._quick)
            except LeaseLostError:
                raise
            except StorageError:
                if not tries_left:
                    raise
                self._store.read(LEASE)  # waits; conditional writes are not repeated by obstore

    def heartbeat(self) -> None:
        """Raise the number; interrupt this process if there is a request to stop.

        Errors are reported once: the next `check` raises if the lease is lost.
        """
        try:
            self._renew(self._quick)
            if self._quick.read(STOP) is not None:
                self._quick.remove(STOP)
                os.kill(os.getpid(), signal.SIGINT)
            self._healthy = True
        except LeaseLostError as error:
            self._report(str(error))
        except StorageError as error:
            self._report(f"storage: cannot {error.action} {error.path}: {error.reason}; retrying")

    def release(self) -> None:
        """Remove this process's name, if it has the lease.

        Raises:
            LeaseLostError: another process has it.
            StorageError: the store cannot be read or written.
        """
        self._renew(self._quick, FREE)

    def _report(self, message: str) -> None:
        if self._healthy:
            self._store.on_retry(message)
        self._healthy = False

    def _renew(self, store: ObjectStore, content: bytes | None = None) -> None:
        """Write the lease by compare-and-swap; from its start this process may write for `VALID_S`.

        content: by default this process's name and the next number.
        """
        with self._renewing:
            while True:
                start = _now()
                self._number += 1
                own = json.dumps({"owner": self._owner, "heartbeat": self._number}).encode()
                try:
                    self._version = store.replace(LEASE, content or own, self._version)
                except ChangedError as error:
                    found, version = store.read_version(LEASE) or (FREE, None)
                    if _owner(found) != self._owner:
                        raise LeaseLostError(store.uri, _owner(found)) from error
                    self._version = version  # of a write whose answer was lost
                    continue
                self._refreshed = start
                return


def owner(store: ObjectStore) -> str | None:
    """The process that is named in the lease, dead or alive; None if there is none."""
    return _owner(store.read(LEASE) or FREE)


def have_heartbeat(stores: Sequence[ObjectStore], wait_s: float) -> list[bool]:
    """Whether each lease has an owner whose number changes within `wait_s`; all watched at once.

    Raises:
        StorageError: a store cannot be read.
    """
    start = _now()
    with ThreadPoolExecutor(THREADS) as pool:
        first = list(pool.map(lambda store: store.read(LEASE) or FREE, stores))
        held: list[bool] = [False] * len(stores)
        waiting = [n for n, content in enumerate(first) if _owner(content)]
        while waiting and _now() - start < wait_s:
            time.sleep(0.5)
            current = list(pool.map(lambda n: stores[n].read(LEASE) or FREE, waiting))
            for number, content in zip(waiting, current, strict=True):
                held[number] = content != first[number] and bool(_owner(content))
            waiting = [n for n, c in zip(waiting, current, strict=True) if c == first[n]]
    return held


def _owner(content: bytes) -> str | None:
    found: str | None = json.loads(content).get("owner")
    return found


def _now() -> float:
    """Seconds of a clock that is never set and counts the time a machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
