"""The lease of a run in an object store: one owner; a dead owner's lease is taken over."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

import pytest

from crnn_search.errors import LeaseLostError, RunFolderError, StorageError
from crnn_search.storage import journal, jsonl, lease, store_lease
from crnn_search.storage.object_store import ObjectStore
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.runs import create_run, open_run
from crnn_search.storage.store_lease import StoreLease

pytestmark = pytest.mark.usefixtures("short_lease")


def new_run(s3: str, name: str) -> RunFolder:
    """A new run with a space file, in the store."""
    run = create_run(s3, name)
    with run.changes():
        run.space.write_text("space: {}")
    return run


def test_a_lease_has_one_owner(s3: str) -> None:
    run, messages = new_run(s3, "owned"), list[str]()
    assert not lease.is_held(run)
    with lease.acquire(run, messages.append):
        assert lease.is_held(run)
        second = lease.acquire(open_run(run.location), messages.append)
        with pytest.raises(RunFolderError, match="another process is using s3://bucket/runs/own"):
            second.__enter__()
    assert messages == [
        f"{run.location} has been in use: waiting up to 2 s for a heartbeat of its process"
    ]
    assert not lease.is_held(run)


def test_the_lease_of_a_process_without_heartbeat_is_taken_over(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(s3, "lost")
    heartbeat, asleep = StoreLease.heartbeat, threading.Event()
    monkeypatch.setattr(StoreLease, "heartbeat", lambda self: asleep.is_set() or heartbeat(self))
    with contextlib.ExitStack() as stack:
        stack.enter_context(lease.acquire(run, list[str]().append))
        asleep.set()
        time.sleep(0.4)
        other = open_run(run.location)
        stack.enter_context(lease.acquire(other, list[str]().append))
        with pytest.raises(LeaseLostError, match=r"another process, .*, has taken over this run: "):
            journal.append(run, run.journal, {"event": "epoch"})
        with pytest.raises(LeaseLostError, match="writes nothing more"), run.changes():
            run.best.touch()
        journal.append(other, other.journal, {"event": "other"})
    again = open_run(run.location)
    assert jsonl.read(again.journal) == [{"event": "other"}]
    assert not again.best.exists()


def test_acquire_fetches_the_last_lines_of_a_dead_process(s3: str) -> None:
    run = new_run(s3, "died")
    journal.append(run, run.journal, {"event": "one"})
    late = open_run(run.location)
    journal.append(run, run.journal, {"event": "two"})
    with lease.acquire(late, pytest.fail):
        assert jsonl.read(late.journal) == [{"event": "one"}, {"event": "two"}]


def test_stop_interrupts_the_owner(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run, signals, interrupted = new_run(s3, "stopped"), list[int](), threading.Event()

    def kill(process: int, number: int) -> None:
        signals.append(number)
        interrupted.set()

    monkeypatch.setattr(os, "kill", kill)
    with lease.acquire(run, pytest.fail):
        other = threading.Thread(target=lease.stop, args=[open_run(run.location), 20])
        other.start()
        assert interrupted.wait(20)
    other.join()
    assert signals == [signal.SIGINT]
    assert run.mirror
    assert "stop" not in run.mirror.store.names()


def test_the_later_of_two_owners_has_the_lease(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ObjectStore(new_run(s3, "race").location, pytest.fail)
    first, second = StoreLease(store), StoreLease(store)
    monkeypatch.setattr(time, "sleep", lambda seconds: second._write())
    with pytest.raises(LeaseLostError, match="has taken over this run"):
        first.acquire()
    assert store_lease.owner(store) == second._owner


def test_a_heartbeat_that_fails_is_reported_once(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    store = ObjectStore(new_run(s3, "unreachable").location, messages.append)
    held = StoreLease(store)
    held.acquire()

    def fail(name: str, retry_for_s: float) -> bytes:
        raise StorageError(name, "timeout", "read")

    with monkeypatch.context() as patch:
        patch.setattr(store, "read", fail)
        held.heartbeat()
        held.heartbeat()
    assert messages == ["storage: cannot read lease.json: timeout; retrying"]
    held.heartbeat()
    held.release()
    assert store_lease.owner(store) is None
