"""The lease of a run in an object store: one owner; a dead owner's lease is taken over."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

from crnn_search.errors import LeaseLostError, RunFolderError, StorageError
from crnn_search.storage import journal, jsonl, lease, object_store, store_lease
from crnn_search.storage.object_store import ObjectStore
from crnn_search.storage.run_folder import LEASE, RunFolder
from crnn_search.storage.runs import create_run, open_run
from crnn_search.storage.store_lease import FREE, StoreLease
from tests.storage import lease_races
from tests.storage.s3_process import serve

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


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """The store of every `ObjectStore`, in memory."""
    store = MemoryStore()
    monkeypatch.setattr(object_store, "connect", lambda *_: store)
    return store


@pytest.mark.parametrize("dead_owner", [False, True])
def test_of_processes_that_acquire_a_lease_at_once_one_has_it(
    memory: MemoryStore, monkeypatch: pytest.MonkeyPatch, dead_owner: bool
) -> None:
    monkeypatch.setattr(store_lease, "STALE_S", 0)
    for number in range(30):
        lease_races.prepare(memory_store(), number if dead_owner else 0)
        barrier, won = threading.Barrier(4, timeout=10), list[str]()

        def compete(barrier: threading.Barrier = barrier, won: list[str] = won) -> None:
            winner = lease_races.compete(memory_store(), barrier)
            won += [winner] if winner else []

        threads = [threading.Thread(target=compete) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()  # none waits for ever: the barrier has an end
        assert won == [store_lease.owner(memory_store())]


@pytest.mark.long(35)
@pytest.mark.slow
def test_of_two_processes_one_has_the_lease_1000_times(tmp_path: Path) -> None:
    with serve(tmp_path / "log", threaded=False) as server:
        assert lease_races.race(server.uri, 1000) == [1] * 1000


def memory_store() -> ObjectStore:
    return ObjectStore("s3://memory/runs", pytest.fail)


def test_a_write_whose_answer_was_lost_is_known_again(
    memory: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = StoreLease(memory_store())
    held.acquire()
    replace = ObjectStore.replace

    def lose_answer(store: ObjectStore, *arguments: Any) -> Any:
        replace(store, *arguments)
        raise StorageError("lease.json", "timeout")

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "replace", lose_answer)
        held._quick.on_retry = held._store.on_retry = lambda _: None
        held.heartbeat()
    held.heartbeat()
    held.check()
    held.release()
    assert store_lease.owner(memory_store()) is None


def test_check_waits_for_a_store_that_hung(
    memory: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = StoreLease(memory_store())
    held.acquire()
    replace, failures = ObjectStore.replace, [StorageError("lease.json", "timeout")] * 2

    def fail_twice(store: ObjectStore, *arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return replace(store, *arguments)

    monkeypatch.setattr(store_lease, "VALID_S", -1)
    monkeypatch.setattr(ObjectStore, "replace", fail_twice)
    held.check()
    assert not failures
    failures += [StorageError("lease.json", "timeout")] * 3
    with pytest.raises(StorageError, match=r"cannot write lease\.json: timeout"):
        held.check()


def test_a_lease_that_is_gone_is_lost(memory: MemoryStore) -> None:
    store = memory_store()
    held = StoreLease(store)
    held.acquire()
    other = StoreLease(store)
    store.write(LEASE, FREE)
    other.acquire()
    with pytest.raises(LeaseLostError, match="has taken over this run"):
        held.release()
    assert store_lease.owner(store) == other._owner


def test_a_heartbeat_that_fails_is_reported_once(
    memory: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    store = ObjectStore("s3://memory/runs", messages.append)
    held = StoreLease(store)
    held.acquire()

    def fail(*_: Any) -> bytes:
        raise StorageError("lease.json", "timeout", "read")

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "replace", fail)
        held.heartbeat()
        held.heartbeat()
    assert messages == ["storage: cannot read lease.json: timeout; retrying"]
    held.heartbeat()
    held.release()
    assert store_lease.owner(store) is None


def test_heartbeats_of_several_runs_are_watched_at_once(s3: str) -> None:
    runs = [new_run(s3, name) for name in ("alive", "dead", "free", "too")]
    assert runs[1].mirror
    runs[1].mirror.store.write(LEASE, b'{"owner": "gone", "heartbeat": 1}')
    with lease.acquire(runs[0], pytest.fail), lease.acquire(runs[3], pytest.fail):
        start = time.monotonic()
        assert lease.are_held(runs) == [True, False, False, True]
        assert time.monotonic() - start < 2 * store_lease.LOOK_S
