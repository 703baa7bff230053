"""A real run that is interrupted and killed: real processes and Ray."""

from __future__ import annotations

import os
import signal
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

RETRAINED = "mnist_crnn_2016-retrained-0"


@pytest.fixture
def root(tmp_path: Path, digits: Digits) -> Path:
    """A folder with a space and data, in which nothing was launched yet."""
    prepare(tmp_path, digits)
    return tmp_path


@pytest.mark.long(80)
def test_a_run_that_ends_early_twice_has_the_same_results(
    root: Path, request: pytest.FixtureRequest
) -> None:
    """A full disk in the search, a terminal that closes in the retraining.

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

    known = len(journal(run))
    process = start(root, *RESUME)
    wait_for(run, known, process, event="epoch")
    assert "trial-0001: its checkpoint is gone; it is trained again" in printed(root)
    assert "demo: searching, running" in run_here(root, "status", "runs/demo").stdout
    other = run_here(root, *RESUME)
    assert other.returncode == 2
    assert "another process is using runs/demo; wait for it or stop it" in other.stderr
    wait_for(run, known, process, event="epoch", name=RETRAINED)
    os.killpg(process.pid, signal.SIGHUP)
    assert wait_for_end(process, root, 120) == 130
    assert "interrupted: everything so far is kept" in printed(root)
    assert "continue with crnn-search resume runs/demo" in (run / "search.log").read_text()
    assert not [event for event in journal(run) if event["event"] in {"retry", "failure"}]
    assert "crnn-search resume runs/demo" in run_here(root, "status", "runs/demo").stdout
    for path in (run / "checkpoints" / RETRAINED).glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-7])

    done = command(root, *RESUME)
    assert done.returncode == 0, done.stderr
    finished: FinishedRun = request.getfixturevalue("finished")  # another test has launched it
    assert results(run) == results(finished.folder)
    assert sum(event["event"] == "session" for event in journal(run)) == 3
    epochs = [event for event in journal(run) if event["event"] == "epoch"]
    assert sum(event["name"] == RETRAINED for event in epochs) == 2, "its checkpoint was damaged"
    assert "nothing is left to do" in run_here(root, *RESUME).stdout
    assert not list(run.glob(".*")), "temporary files are left"


def printed(root: Path) -> str:
    """What `start` has printed in `root`."""
    return (root / "log").read_text()


def journal(run: Path) -> list[jsonl.Record]:
    """All events so far."""
    path = run / "journal.jsonl"
    return jsonl.read(path) if path.exists() else []
