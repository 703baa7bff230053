"""tensorboard and dashboard: what they refuse, their ports, and what becomes of their processes."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest

from crnn_search.cli.boards import free_port
from crnn_search.storage import temporary
from crnn_search.storage.journal import History
from crnn_search.storage.run_folder import STUDY_VARIABLE, RunFolder
from crnn_search.tuning.study_mirror import StudyMirror
from tests.browser import answers
from tests.cli.conftest import CommandLine
from tests.pipeline.test_writes import SPACE
from tests.waiting import wait

PROGRAM = "from crnn_search.cli.app import main; main()"
SECRET = "postgresql://me:s3cret@db.example/studies"


@pytest.fixture
def events(space: Path) -> RunFolder:
    """A run with an empty folder of events."""
    run = RunFolder(space.parent)
    run.tensorboard.mkdir()
    return run


@pytest.fixture
def copied(space: Path) -> RunFolder:
    """A run with an empty study."""
    run = RunFolder(space.parent)
    with StudyMirror(run, SPACE, History(), "now", pytest.fail).running():
        pass
    return run


def test_run_without_epochs_has_no_tensorboard(crnn_search: CommandLine, space: Path) -> None:
    done = crnn_search("tensorboard", str(space.parent))
    assert done.code == 2
    assert "no TensorBoard files: no trial has finished an epoch yet" in done.err


def test_run_that_has_not_started_has_no_study(crnn_search: CommandLine, space: Path) -> None:
    done = crnn_search("dashboard", str(space.parent))
    assert done.code == 2
    assert "has no study.db: the search has not started yet, or its study is in the" in done.err


@pytest.mark.parametrize("content", [b"no database", b""])
def test_a_study_that_is_none_is_refused(
    crnn_search: CommandLine, space: Path, content: bytes
) -> None:
    RunFolder(space.parent).study.write_bytes(content)
    done = crnn_search("dashboard", str(space.parent))
    assert done.code == 2
    assert "study.db" in done.err


def test_a_server_that_is_not_there_is_an_error_without_its_password(
    crnn_search: CommandLine, copied: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = mock.MagicMock(created="now")
    monkeypatch.setattr("crnn_search.pipeline.manifest.Manifest.read", lambda run: manifest)
    monkeypatch.setenv(STUDY_VARIABLE, "postgresql://me:s3cret@127.0.0.1:9/studies")
    done = crnn_search("dashboard", str(copied.root))
    assert done.code == 2
    assert "cannot read the study in postgresql+psycopg://me:***@127.0.0.1:9/studies: " in done.err
    assert "s3cret" not in done.err


@pytest.mark.parametrize("command", ["dashboard", "launch", "resume", "extend"])
def test_a_password_on_the_command_line_is_refused(
    crnn_search: CommandLine, space: Path, command: str
) -> None:
    place = str(space if command == "launch" else space.parent)
    words = ["--trials", "1"] if command == "extend" else []
    done = crnn_search(command, place, *words, "--study-storage", SECRET)
    assert done.code == 2
    assert f"environment variable {STUDY_VARIABLE}" in done.err
    assert "s3cret" not in done.err


def test_the_dashboard_needs_its_extra(
    crnn_search: CommandLine, copied: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    done = crnn_search("dashboard", str(copied.root))
    assert done.code == 2
    assert "pip install 'crnn-search[dashboard]'" in done.err


@pytest.mark.parametrize("command", ["tensorboard", "dashboard"])
@pytest.mark.parametrize("port", ["-5", "65536", "x"])
def test_what_is_no_port_is_refused(
    crnn_search: CommandLine, events: RunFolder, port: str, command: str
) -> None:
    done = crnn_search(command, str(events.root), "--port", port)
    assert done.code == 2
    assert "Invalid value for '--port'" in done.err


def test_a_port_that_is_taken_gives_the_next_one(
    crnn_search: CommandLine, events: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = mock.MagicMock()
    monkeypatch.setattr("os.execve", started)
    monkeypatch.setenv(STUDY_VARIABLE, SECRET)
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        done = crnn_search("tensorboard", str(events.root), "--port", str(taken))
    assert done.code == 0
    program, words, environment = started.call_args.args
    port = int(words[-1])
    assert port > taken
    assert f"TensorBoard: http://127.0.0.1:{port}/?pinnedCards=" in done.out
    assert (program, words[1:4]) == (sys.executable, ["-P", "-m", "tensorboard.main"])
    assert STUDY_VARIABLE not in environment


def test_no_free_port_is_an_error(
    crnn_search: CommandLine, events: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crnn_search.cli.boards.PORTS", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = crnn_search("tensorboard", str(events.root), "--port", str(port))
    assert done.code == 2
    assert f"or one of the next 1, got {port}: Address already in use; 0 takes any free" in done.err
    assert free_port(0) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "ending"),
    [
        ("tensorboard", signal.SIGTERM),
        ("tensorboard", signal.SIGKILL),
        ("dashboard", signal.SIGINT),
        ("dashboard", signal.SIGTERM),
    ],
)
def test_the_server_ends_with_its_process(
    copied: RunFolder, command: str, ending: signal.Signals
) -> None:
    copied.tensorboard.mkdir()
    port = free_port(0)
    url = f"http://127.0.0.1:{port}/"
    words = [sys.executable, "-c", PROGRAM, command, str(copied.root), "--port", str(port)]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        wait(lambda: answers(url), 60, f"{command} does not answer")
        process.send_signal(ending)
        printed, errors = process.communicate(timeout=20)
        assert not answers(url)
    assert url.encode() in printed
    assert b"Traceback" not in errors


def test_a_folder_that_is_handed_over_is_kept_until_the_program_ends() -> None:
    """As for TensorBoard on a run in an object store."""
    program = (
        "import os, sys\n"
        "from crnn_search.storage import temporary\n"
        "print(temporary.create_folder(), flush=True)\n"
        "temporary.hand_over()\n"
        "os.execv(sys.executable, [sys.executable, '-c', 'input()'])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        folder = Path(process.stdout.readline().strip())
        long_ago = time.time() - 2 * temporary.SETTLED_S
        os.utime(folder, (long_ago, long_ago))
        wait(lambda: b"input()" in _command(process.pid), 20, "the program was not replaced")
        temporary.remove_dead_folders()
        assert folder.exists()
        process.communicate("\n", timeout=20)
    temporary.remove_dead_folders()
    assert not folder.exists()


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
