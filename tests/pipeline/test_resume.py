"""A real run that is interrupted and killed: real processes and Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from crnn_search.data.digits import Digits
from crnn_search.storage import jsonl
from tests import faulty
from tests.small_run import (
    LAUNCH,
    RESUME,
    FinishedRun,
    command,
    prepare,
    results,
    run_here,
    start,
    wait_for,
    wait_for_end,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def root(tmp_path: Path, digits: Digits) -> Path:
    """A folder with a space and data, in which nothing was launched yet."""
    prepare(tmp_path, digits)
    return tmp_path


@pytest.mark.long(100)
def test_a_run_that_ends_early_three_times_has_the_same_results(
    root: Path, request: pytest.FixtureRequest
) -> None:
    """A full disk, a terminal that closes in the search, SIGKILL in the retraining.

    Each is followed by a resume. SIGHUP reaches the driver and all processes of its Ray.
    """
    run = root / "runs" / "demo"
    process = start(root, *LAUNCH, before=faulty.FULL_DISK)
    code = wait_for_end(process, root, 120)
    assert code == 1, printed(root)
    assert "error: cannot write runs/demo/" in printed(root)
    assert "No space left on device" in printed(root)
    assert "1 of 5 ended" in run_here(root, "status", "runs/demo").stdout
    for path in (run / "checkpoints" / "trial-0001").iterdir():
        path.unlink()

    process = resumed_until(root, event="epoch")
    assert "trial-0001: its checkpoint is gone; it is trained again" in printed(root)
    assert "demo: searching, running" in run_here(root, "status", "runs/demo").stdout
    other = run_here(root, *RESUME)
    assert other.returncode == 2
    assert "another process is using runs/demo; wait for it or stop it" in other.stderr
    os.killpg(process.pid, signal.SIGHUP)
    assert wait_for_end(process, root, 120) == 130
    assert "interrupted: everything so far is kept" in printed(root)
    assert "continue with crnn-search resume runs/demo" in (run / "search.log").read_text()
    assert not [event for event in journal(run) if event["event"] in {"retry", "failure"}]
    assert "crnn-search resume runs/demo" in run_here(root, "status", "runs/demo").stdout
    damage_checkpoints_of_running_trials(run)

    process = resumed_until(root, event="stage", stage="retrain")
    time.sleep(0.2)  # into the stage
    assert process.poll() is None, "the run ended before it was killed"
    process.send_signal(signal.SIGKILL)
    process.wait(30)

    done = command(root, *RESUME)
    assert done.returncode == 0, done.stderr
    finished: FinishedRun = request.getfixturevalue("finished")  # another test has launched it
    assert results(run) == results(finished.folder)
    assert sum(event["event"] == "session" for event in journal(run)) == 4
    assert "nothing is left to do" in run_here(root, *RESUME).stdout
    assert not list(run.glob(".*")), "temporary files are left"


def resumed_until(root: Path, **fields: str) -> subprocess.Popen[bytes]:
    """Resume the run, and wait for a new event with these fields."""
    run = root / "runs" / "demo"
    known = len(journal(run))
    process = start(root, *RESUME)
    wait_for(run, known, process, **fields)
    return process


def printed(root: Path) -> str:
    """What `start` has printed in `root`."""
    return (root / "log").read_text()


def damage_checkpoints_of_running_trials(run: Path) -> None:
    ended = {trial["name"] for trial in jsonl.read(run / "trials.jsonl")}
    started = [event["trial"]["name"] for event in journal(run) if event["event"] == "trial"]
    for name in set(started) - ended:
        for path in (run / "checkpoints" / name).glob("*.safetensors"):
            path.write_bytes(path.read_bytes()[:-7])


def journal(run: Path) -> list[jsonl.Record]:
    """All events so far."""
    path = run / "journal.jsonl"
    return jsonl.read(path) if path.exists() else []
