"""The lease of a run in a folder: one process at a time, and the request to stop."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crnn_search.errors import RunError, RunFolderError
from crnn_search.storage import file_lock, lease
from crnn_search.storage.run_folder import RunFolder
from tests.waiting import wait

OTHER_PROCESS = """
import sys, time
from pathlib import Path
from crnn_search.storage import lease
from crnn_search.storage.run_folder import RunFolder
with lease.acquire(RunFolder(Path(sys.argv[1])), print):
    time.sleep(60)
"""


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


@pytest.fixture
def other_process(run: RunFolder) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has the lease of the run."""
    arguments = [sys.executable, "-c", OTHER_PROCESS, str(run.root)]
    process = subprocess.Popen(arguments)
    try:
        wait(lambda: lease.is_held(run), 60, lambda: f"no lease; exit code {process.poll()}")
        yield process
    finally:
        process.kill()
        process.wait(30)


def acquire(run: RunFolder) -> None:
    with lease.acquire(run, pytest.fail):
        pass


def test_acquire_never_fails_because_of_a_query(run: RunFolder) -> None:
    ended = threading.Event()
    answers = []

    def query() -> None:
        while not ended.is_set():
            answers.append(lease.is_held(run))

    threads = [threading.Thread(target=query) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(200):
            acquire(run)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert set(answers) == {False, True}


def test_lease_is_held_until_the_block_ends(run: RunFolder) -> None:
    assert not lease.is_held(run)
    with lease.acquire(run, pytest.fail):
        assert lease.is_held(run)
        with pytest.raises(RunFolderError, match=f"another process is using {run.root}; wait"):
            acquire(run)
        assert lease.is_held(run)
    assert not lease.is_held(run)
    acquire(run)


def test_opening_and_closing_the_journal_keeps_the_lease(run: RunFolder) -> None:
    with lease.acquire(run, pytest.fail):
        with run.journal.open("ab") as file:
            file.write(b"{}\n")
        run.journal.read_bytes()
        assert lease.is_held(run)


def test_lease_of_a_killed_process_is_free(
    run: RunFolder, other_process: subprocess.Popen[bytes]
) -> None:
    assert lease.is_held(run)
    with pytest.raises(RunFolderError, match="another process is using"):
        acquire(run)
    other_process.kill()
    other_process.wait(30)
    assert not lease.is_held(run)
    acquire(run)


def test_stop_interrupts_the_process(
    run: RunFolder, other_process: subprocess.Popen[bytes]
) -> None:
    assert lease.stop(run, timeout_s=20)
    assert other_process.wait(30) == -signal.SIGINT
    assert not run.stop.exists()


def test_stop_without_a_process_does_nothing(run: RunFolder) -> None:
    assert not lease.stop(run, timeout_s=0)
    assert not run.stop.exists()


def test_stop_reports_a_process_that_does_not_stop(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "WATCH_S", 60.0)
    with lease.acquire(run, pytest.fail):
        with pytest.raises(RunError, match=f"{run.root} was asked to stop, but still runs after 0"):
            lease.stop(run, timeout_s=0)
        assert run.stop.exists()


def test_an_old_request_to_stop_is_removed(run: RunFolder) -> None:
    run.stop.touch()
    acquire(run)
    assert not run.stop.exists()


def test_a_folder_out_of_reach_does_not_end_the_watch(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "WATCH_S", 0.01)
    asked, exists = threading.Event(), Path.exists
    errors = [OSError(errno.ESTALE, os.strerror(errno.ESTALE))]

    def unreachable_once(path: Path) -> bool:
        if path == run.stop and errors:
            raise errors.pop()
        return exists(path)

    monkeypatch.setattr(Path, "exists", unreachable_once)
    monkeypatch.setattr(os, "kill", lambda process, number: asked.set())
    with lease.acquire(run, pytest.fail):
        run.stop.touch()
        assert asked.wait(10)


def test_stop_reaches_a_process_that_ignores_sigint(run: RunFolder) -> None:
    """As one that a script has begun with `&`."""
    shell = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
    arguments = [*shell, sys.executable, "-c", OTHER_PROCESS, str(run.root)]
    with subprocess.Popen(arguments) as process:
        try:
            wait(lambda: lease.is_held(run), 60, lambda: f"no lease; exit code {process.poll()}")
            assert lease.stop(run, timeout_s=20)
            assert process.wait(20) == -signal.SIGINT
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_interrupt_what_holds_the_lease(run: RunFolder, number: signal.Signals) -> None:
    with lease.acquire(run, pytest.fail), pytest.raises(KeyboardInterrupt, match=r"^$"):  # noqa: PT012
        os.kill(os.getpid(), number)
        time.sleep(10)
    assert not lease.is_held(run)


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"cannot write .*journal\.jsonl: No such file"):
        acquire(RunFolder(tmp_path / "missing"))


def test_a_file_system_without_locks_says_so(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> bool:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    run.journal.touch()
    monkeypatch.setattr(file_lock, "lock", no_locks)
    monkeypatch.setattr(file_lock, "is_locked", no_locks)
    for action in (acquire, lease.is_held):
        with pytest.raises(RunFolderError, match=r"cannot lock .*journal\.jsonl: No locks avail"):
            action(run)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_run_on_a_file_system_without_locks_can_be_looked_at_but_not_continued(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def no_locks(*_: object) -> bool:
        raise OSError(code, os.strerror(code))

    run.journal.touch()
    monkeypatch.setattr("fcntl.fcntl", no_locks)
    assert not lease.is_held(run)
    with pytest.raises(RunFolderError, match=r"cannot lock .*runs need a file system with locks"):
        acquire(run)
