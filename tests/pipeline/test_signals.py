"""One policy for signals in every stage of a run: real processes, one of them with Ray."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.small_run import (
    PROGRAM,
    REPOSITORY,
    RESUME,
    FinishedRun,
    one_core,
    run_here,
)

IGNORED = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
"""As for a process that a script begins with `&`."""

WAITS = """
import pathlib, time
from {module} import {name}

def wait(*_, **__):
    pathlib.Path("waiting").touch()
    time.sleep(60)

{name}.{function} = wait
"""


def start(root: Path, *arguments: str, before: str) -> subprocess.Popen[bytes]:
    """Start `crnn-search` in `root`, in a session of its own; it prints to the file `log`."""
    with (root / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-c", IGNORED + before + PROGRAM, *arguments],
            cwd=root,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "COLUMNS": "200", "PYTHONPATH": REPOSITORY},
            preexec_fn=one_core,
            start_new_session=True,
        )


def wait_until_it_waits(root: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 100
    while not (root / "waiting").exists():
        assert process.poll() is None, (root / "log").read_text()
        assert time.monotonic() < deadline, "it does not come to the place where it waits"
        time.sleep(0.05)


@pytest.fixture
def root(tmp_path: Path, finished: FinishedRun) -> Path:
    """A folder with the data and a run that is retrained, but has no report."""
    shutil.copytree(finished.folder, tmp_path / "runs" / "demo")
    (tmp_path / "data").symlink_to(finished.root / "data")
    (tmp_path / "space.yaml").symlink_to(finished.root / "space.yaml")
    (tmp_path / "runs" / "demo" / "report.json").unlink()
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_first_signal_stops_a_report_and_the_second_ends_it(
    root: Path, number: signal.Signals
) -> None:
    before = WAITS.format(module="crnn_search.results", name="report", function="write_report")
    hook = f"sh -c 'cat > {root}/ended.json'"
    process = start(root, *RESUME, "--on-end", hook, before=before)
    wait_until_it_waits(root, process)
    process.send_signal(number)
    assert process.wait(30) == 130
    printed = (root / "log").read_text()
    assert "interrupted: everything so far is kept" in printed
    assert "crnn-search resume runs/demo" in printed
    assert json.loads((root / "ended.json").read_text())["state"] == "interrupted"

    (root / "waiting").unlink()
    process = start(root, *RESUME, "--on-end", "sleep 60", before=before)
    wait_until_it_waits(root, process)
    process.send_signal(number)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(number)
    assert process.wait(3) == 130
    assert "interrupted: continue with\n  crnn-search resume" in (root / "log").read_text()


@pytest.mark.slow
def test_stop_reaches_a_run_that_starts(root: Path) -> None:
    before = WAITS.format(module="crnn_search.data", name="mnist", function="load")
    process = start(root, "launch", "space.yaml", "--name", "new", before=before)
    wait_until_it_waits(root, process)
    done = run_here(root, "stop", "runs/new")
    assert (done.returncode, process.wait(10)) == (0, 130)
    assert "runs/new was stopped; continue with" in done.stdout
