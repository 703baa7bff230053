"""Which process works on a run: one at a time; and the request that it stop.

In a folder the lease is a lock on a file, let go by the system when the process ends. An object
store has no locks: there it is an object, `lease.json`, that names its owner and a beat, a number
that the owner raises every few seconds. Whoever sees a beat stand still for long enough, by a clock
of its own, takes the lease; no two clocks need to agree. The owner writes nothing unless it has
seen its own name in the lease within a shorter time (`docs/decisions/0010`).

A request to stop is a file or an object that the working process looks for, so that it can come
from any machine that sees the run's storage; it stops the run as one Ctrl-C does.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from crnn_search.errors import RunError, RunFolderError, StorageError
from crnn_search.storage.object_store import ObjectStore
from crnn_search.storage.run_folder import RunPaths

WATCH_S = 1.0
"""How often the working process looks for a request to stop in a folder."""

BEAT_S, VALID_S, STALE_S = 3.0, 9.0, 20.0
"""An owner beats, and looks for a request to stop, so often; writes without looking at the lease
again for so long; has lost it to whoever has seen no beat for so long."""

LEASE, STOP = "lease.json", "stop"
Note = Callable[[str], None]


@contextlib.contextmanager
def hold(run: RunPaths, note: Note) -> Iterator[None]:
    """Work on a run, alone, until a stop is asked for. note: hears of waiting and trouble.

    Raises:
        RunFolderError: another process works on it, or its place cannot be written.
    """
    with _leased(run, note) if run.mirror else _locked(run):
        yield


def is_held(run: RunPaths) -> bool:
    """Whether a process works on a run; in an object store it may take `STALE_S` to tell.

    False for another host's process in a folder whose locks are not shared.
    """
    if run.mirror:
        return _beats(run.mirror.store)
    try:
        handle = os.open(run.journal, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not _lock(handle)
    finally:
        os.close(handle)


def stop(run: RunPaths, timeout_s: float) -> bool:
    """Ask the process that works on a run to stop, and wait for it; False if there is none.

    Raises:
        RunFolderError: the folder cannot be written.
        RunError: it does not stop in time.
    """
    if not is_held(run):
        return False
    try:
        if run.mirror:
            run.mirror.store.write(STOP, b"")
        else:
            run.stop.touch()
    except OSError as error:
        raise RunFolderError(f"cannot write {run.stop}: {error.strerror}") from error
    deadline = time.monotonic() + timeout_s
    while is_held(run):
        if time.monotonic() > deadline:
            raise RunError(f"{run.location} was asked to stop and is worked on still")
        time.sleep(0.2)
    return True


def interrupt_on_sigterm() -> None:
    """Let SIGTERM, which Ray's jobs are stopped with, do what Ctrl-C does.

    Ray starts its jobs with SIGINT blocked, which a process inherits: here it is let through again.
    """
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextlib.contextmanager
def _locked(run: RunPaths) -> Iterator[None]:
    try:
        handle = os.open(run.journal, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise RunFolderError(f"cannot write {run.journal}: {error.strerror}") from error
    try:
        if not _lock(handle):
            raise _taken(str(run.root))
        run.stop.unlink(missing_ok=True)

        def watch() -> None:
            if run.stop.exists():
                run.stop.unlink(missing_ok=True)
                os.kill(os.getpid(), signal.SIGINT)

        with _every(WATCH_S, watch):
            yield
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    """Take the lock of an open file; it is let go when the file or the process ends."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _leased(run: RunPaths, note: Note) -> Iterator[None]:
    assert run.mirror
    run.mirror.store.warn = note
    store = ObjectStore(run.location, note)
    if _read(store).get("owner"):
        note(f"another process had {run.location}: seeing for {STALE_S:.0f} s whether it lives")
        if _beats(store):
            raise _taken(run.location)
    lease = _Lease(store)
    lease.take()
    store.remove(STOP)
    if run.space.is_file() and run.journal.is_file():
        run.mirror.pull()  # what a process that has died since wrote last
    run.mirror.begin()
    run.mirror.may_write = lease.check
    try:
        with _every(BEAT_S, lease.beat):
            yield
    finally:
        with contextlib.suppress(StorageError):
            lease.let_go()


class _Lease:
    """A lease in an object store that this process owns, or has lost."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(8)}"
        self._number = 0
        self._seen = 0.0
        self._reached = True

    def take(self) -> None:
        """Put this process's name; of two that do so at once the later one has it."""
        self._put()
        time.sleep(1)
        self._look()

    def check(self) -> None:
        """Raise if this process may not write; waits while the store cannot be reached.

        Raises:
            StorageError: another process has the lease, or the store cannot be reached for long.
        """
        if _now() - self._seen > VALID_S:
            self._look()

    def beat(self) -> None:
        """Raise the number; interrupt this process if a stop is asked for or the lease is lost."""
        try:
            self._look(patience_s=0)
            self._put(patience_s=0)
            if self._store.read(STOP, patience_s=0) is not None:
                self._store.remove(STOP, patience_s=0)
                os.kill(os.getpid(), signal.SIGINT)
            self._reached = True
        except StorageError as error:
            if self._reached:
                self._store.warn(f"storage: {error}")
            self._reached = False

    def let_go(self) -> None:
        """Say that nobody owns it."""
        if self._owner == _read(self._store, patience_s=0).get("owner"):
            self._store.write(LEASE, b"{}", patience_s=0)

    def _look(self, **patience: float) -> None:
        began = _now()
        owner = _read(self._store, **patience).get("owner")
        if owner != self._owner:
            raise StorageError(self._store.uri, f"another process, {owner}, has taken the run over")
        self._seen = began

    def _put(self, **patience: float) -> None:
        self._number += 1
        content = json.dumps({"owner": self._owner, "beat": self._number})
        self._store.write(LEASE, content.encode(), **patience)


def _beats(store: ObjectStore) -> bool:
    """Whether somebody owns the lease and its beat changes within `STALE_S`."""
    first = _read(store)
    began = _now()
    while first.get("owner") and _now() - began < STALE_S:
        time.sleep(0.5)
        now = _read(store)
        if now != first:
            return bool(now.get("owner"))
    return False


def _read(store: ObjectStore, **patience: float) -> dict[str, Any]:
    return dict(json.loads(store.read(LEASE, **patience) or b"{}"))


def _now() -> float:
    """Seconds of a clock that goes on while the machine sleeps and is never set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _taken(place: str) -> RunFolderError:
    return RunFolderError(
        f"another process works on {place}; wait for it or stop it (Ctrl-C, or crnn-search stop), "
        "then try again"
    )


@contextlib.contextmanager
def _every(seconds: float, work: Callable[[], None]) -> Iterator[None]:
    """Do some work again and again, in a thread."""
    ended = threading.Event()

    def go() -> None:
        while not ended.wait(seconds):
            work()

    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
