"""The lease of a run in an object store, which has no locks (`docs/decisions/0010`).

The lease is an object, `lease.json`, that names its owner and a heartbeat: a number that the owner
raises every few seconds. Whoever sees the number unchanged for long enough, by its own clock, may
acquire the lease; no two clocks need to agree. The owner writes to the run only if it has read its
own name in the lease within a shorter time.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import time
from typing import Any

from crnn_search.errors import LeaseLostError, StorageError
from crnn_search.storage.object_store import ObjectStore
from crnn_search.storage.retry import RETRY_FOR_S
from crnn_search.storage.run_folder import LEASE, STOP

HEARTBEAT_S = 3.0
"""How often the owner raises the number, and looks for a request to stop."""

VALID_S = 9.0
"""How long the owner may write after it has read its own name in the lease."""

STALE_S = 20.0
"""An owner whose number does not change for so long has lost the lease."""

CONFIRM_S = 1.0
"""How long after writing its name a process reads the lease again, to see whether it has it."""


class StoreLease:
    """A lease that this process acquires, and may lose."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(8)}"
        self._number = 0
        self._refreshed = 0.0
        self._healthy = True

    def acquire(self) -> None:
        """Write this process's name; of two that do so at the same time the later one has it.

        Raises:
            LeaseLostError: another process has it.
            StorageError: the store cannot be read or written.
        """
        self._write()
        time.sleep(CONFIRM_S)
        self._refresh()

    def check(self) -> None:
        """Check that this process may write; waits while the store cannot be reached.

        Raises:
            LeaseLostError: another process has the lease.
            StorageError: the store cannot be read.
        """
        if _now() - self._refreshed > VALID_S:
            self._refresh()

    def heartbeat(self) -> None:
        """Raise the number; interrupt this process if there is a request to stop.

        Errors are reported once: the next `check` raises if the lease is lost.
        """
        try:
            self._refresh(retry_for_s=0)
            self._write(retry_for_s=0)
            if self._store.read(STOP, retry_for_s=0) is not None:
                self._store.remove(STOP, retry_for_s=0)
                os.kill(os.getpid(), signal.SIGINT)
            self._healthy = True
        except LeaseLostError as error:
            self._report(str(error))
        except StorageError as error:
            self._report(f"storage: cannot {error.action} {error.path}: {error.reason}; retrying")

    def release(self) -> None:
        """Remove this process's name.

        Raises:
            StorageError: the store cannot be read or written.
        """
        if self._owner == owner(self._store, retry_for_s=0):
            self._store.write(LEASE, b"{}", retry_for_s=0)

    def _report(self, message: str) -> None:
        if self._healthy:
            self._store.on_retry(message)
        self._healthy = False

    def _refresh(self, retry_for_s: float = RETRY_FOR_S) -> None:
        """Read the lease; from now on this process may write for `VALID_S`."""
        start = _now()
        found = owner(self._store, retry_for_s)
        if found != self._owner:
            raise LeaseLostError(self._store.uri, found)
        self._refreshed = start

    def _write(self, retry_for_s: float = RETRY_FOR_S) -> None:
        self._number += 1
        content = json.dumps({"owner": self._owner, "heartbeat": self._number})
        self._store.write(LEASE, content.encode(), retry_for_s)


def owner(store: ObjectStore, retry_for_s: float = RETRY_FOR_S) -> str | None:
    """The process that is named in the lease, dead or alive; None if there is none."""
    return _read(store, retry_for_s).get("owner")


def has_heartbeat(store: ObjectStore) -> bool:
    """Whether the lease has an owner whose number changes within `STALE_S`."""
    first = _read(store)
    start = _now()
    while first.get("owner") and _now() - start < STALE_S:
        time.sleep(0.5)
        current = _read(store)
        if current != first:
            return bool(current.get("owner"))
    return False


def _read(store: ObjectStore, retry_for_s: float = RETRY_FOR_S) -> dict[str, Any]:
    return dict(json.loads(store.read(LEASE, retry_for_s) or b"{}"))


def _now() -> float:
    """Seconds of a clock that is never set and counts the time a machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
