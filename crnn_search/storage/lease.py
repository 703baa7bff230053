"""Which process runs a search: one at a time; and the request that it stops.

In a folder the lease is a lock on the journal, released by the system when the process ends. An
object store has no locks: see `storage.store_lease`.

A request to stop is a file or an object that the running process looks for, so that it can come
from any machine that sees the run's storage; it has the effect of one Ctrl-C.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from crnn_search import signals
from crnn_search.errors import LeaseLostError, RunError, RunFolderError, StorageError
from crnn_search.storage import file_lock, store_lease
from crnn_search.storage.retry import OnRetry
from crnn_search.storage.run_folder import STOP, RunFolder
from crnn_search.storage.store_lease import StoreLease

WATCH_S = 1.0
"""How often the running process looks for a request to stop in a folder."""


@contextlib.contextmanager
def acquire(run: RunFolder, on_retry: OnRetry) -> Iterator[None]:
    """Hold the lease of a run in this block; a request to stop raises KeyboardInterrupt in it.

    Raises:
        RunFolderError: another process has it, or the run cannot be written.
        StorageError: the object store cannot be read or written.
    """
    with signals.interruptible(), _leased(run, on_retry) if run.mirror else _locked(run):
        yield


def is_held(run: RunFolder, wait_s: float | None = None) -> bool:
    """Whether a process has the lease; in an object store the answer may take `wait_s`.

    wait_s: how long to wait for a heartbeat; by default `LOOK_S`.

    False for a process of another host in a folder whose locks are not shared.

    Raises:
        RunFolderError: the folder cannot be read or has no locks.
        StorageError: the object store cannot be read.
    """
    return are_held([run], wait_s)[0]


def are_held(runs: Sequence[RunFolder], wait_s: float | None = None) -> list[bool]:
    """`is_held` of several runs, whose leases in object stores are watched at the same time."""
    wait_s = store_lease.LOOK_S if wait_s is None else wait_s
    stores = [run.mirror.store for run in runs if run.mirror]
    in_stores = iter(store_lease.have_heartbeat(stores, wait_s) if stores else [])
    return [next(in_stores) if run.mirror else _is_locked(run) for run in runs]


def stop(run: RunFolder, timeout_s: float) -> bool:
    """Ask the process that has the lease to stop, and wait for it; False if there is none.

    Raises:
        RunFolderError: the folder cannot be written.
        StorageError: the object store cannot be written.
        RunError: the process does not stop in time.
    """
    if not is_held(run, store_lease.STALE_S):
        return False
    try:
        if run.mirror:
            run.mirror.store.write(STOP, b"")
        else:
            run.stop.touch()
    except OSError as error:
        raise RunFolderError(f"cannot write {run.stop}: {error.strerror}") from error
    deadline = time.monotonic() + timeout_s
    while is_held(run, store_lease.STALE_S):
        if time.monotonic() > deadline:
            raise RunError(
                f"{run.location} was asked to stop, but still runs after {timeout_s:.0f} s"
            )
        time.sleep(0.2)
    return True


def _is_locked(run: RunFolder) -> bool:
    try:
        handle = os.open(run.journal, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise RunFolderError(f"cannot read {run.journal}: {error.strerror}") from error
    try:
        return file_lock.is_locked(handle)
    except OSError as error:
        raise _no_locks(run, error) from error
    finally:
        os.close(handle)


@contextlib.contextmanager
def _locked(run: RunFolder) -> Iterator[None]:
    try:
        handle = os.open(run.journal, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise RunFolderError(f"cannot write {run.journal}: {error.strerror}") from error
    try:
        try:
            locked = file_lock.lock(handle)
        except OSError as error:
            raise _no_locks(run, error) from error
        if not locked:
            raise _in_use(run)
        run.stop.unlink(missing_ok=True)
        with _repeat(lambda: _interrupt_if_asked(run), WATCH_S):
            yield
    finally:
        os.close(handle)


def _interrupt_if_asked(run: RunFolder) -> None:
    """Interrupt this process if there is a request to stop; a folder out of reach has none."""
    with contextlib.suppress(OSError):
        if run.stop.exists():
            run.stop.unlink(missing_ok=True)
            os.kill(os.getpid(), signal.SIGINT)


@contextlib.contextmanager
def _leased(run: RunFolder, on_retry: OnRetry) -> Iterator[None]:
    assert run.mirror
    store = run.mirror.store = run.mirror.store.copy(on_retry)
    lease = StoreLease(store)
    waiting = (
        f"{run.location} has been in use: waiting up to {store_lease.STALE_S:.0f} s for a "
        "heartbeat of its process"
    )
    try:
        lease.acquire(lambda: on_retry(waiting))
    except LeaseLostError as error:
        raise _in_use(run) from error
    store.remove(STOP)
    if run.space.is_file() and run.journal.is_file():
        run.mirror.pull()  # the last lines of a process that died after this folder was filled
    run.mirror.start_session()
    run.mirror.check_lease = lease.check
    try:
        with _repeat(lease.heartbeat, store_lease.HEARTBEAT_S):
            yield
    finally:
        with contextlib.suppress(StorageError):
            lease.release()


def _in_use(run: RunFolder) -> RunFolderError:
    return RunFolderError(
        f"another process is using {run.location}; wait for it or stop it (Ctrl-C, or "
        "crnn-search stop), then try again"
    )


def _no_locks(run: RunFolder, error: OSError) -> RunFolderError:
    return RunFolderError(
        f"cannot lock {run.journal}: {error.strerror}; runs need a file system with locks"
    )


@contextlib.contextmanager
def _repeat(action: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call `action` every few seconds in a thread, until the block ends."""
    ended = threading.Event()

    def loop() -> None:
        while not ended.wait(seconds):
            action()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
