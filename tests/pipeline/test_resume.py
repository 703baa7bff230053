"""Real runs that are killed, interrupted, extended or warm-started: real processes and Ray."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from crnn_search.data.sequences import Digits
from crnn_search.storage import jsonl
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


def test_killed_three_times_it_ends_with_the_same_results(
    root: Path, finished: FinishedRun
) -> None:
    run = root / "runs" / "demo"
    points: dict[str, dict[str, Any]] = {
        "while it starts": {"event": "session"},
        "in the search": {"event": "epoch", "name": "trial-0001", "epoch": 1},
        "in the retraining": {"event": "stage", "stage": "retrain"},
    }
    words: tuple[str, ...] = LAUNCH
    for point, event in points.items():
        process = start(root, *words)
        wait_for(run, len(journal(run)), process, **event)
        time.sleep(0.2)  # into the next step
        assert process.poll() is None, f"the run ended before it was killed {point}"
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        words = RESUME
    done = command(root, *RESUME)
    assert done.returncode == 0, done.stderr
    assert results(run) == results(finished.folder)
    assert sum(event["event"] == "session" for event in journal(run)) == 4
    assert "nothing is left to do" in run_here(root, *RESUME).stdout


def test_interrupted_once_and_twice_it_continues(root: Path, finished: FinishedRun) -> None:
    run = root / "runs" / "demo"
    process = start(root, *LAUNCH)
    wait_for(run, process=process, event="epoch", name="trial-0001", epoch=1)
    assert "demo: searching, running" in run_here(root, "status", "runs/demo").stdout
    other = run_here(root, *RESUME)
    assert other.returncode == 2
    assert "another process is using runs/demo; wait for it or stop it" in other.stderr
    process.send_signal(signal.SIGINT)
    assert wait_for_end(process, root, 120) == 130
    printed = (root / "log").read_text()
    assert "crnn-search resume runs/demo" in printed

    assert "crnn-search resume runs/demo" in run_here(root, "status", "runs/demo").stdout
    damage_checkpoints_of_running_trials(run)
    known = len(journal(run))
    process = start(root, *RESUME)
    wait_for(run, known, process, event="epoch")
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert wait_for_end(process, root, 30) == 130
    done = command(root, *RESUME)
    assert done.returncode == 0, done.stderr
    assert results(run) == results(finished.folder)
    assert not list(run.glob(".*")), "temporary files are left"


def damage_checkpoints_of_running_trials(run: Path) -> None:
    ended = {trial["name"] for trial in jsonl.read(run / "trials.jsonl")}
    started = [event["trial"]["name"] for event in journal(run) if event["event"] == "trial"]
    for name in set(started) - ended:
        for path in (run / "checkpoints" / name).glob("*.safetensors"):
            path.write_bytes(path.read_bytes()[:-7])


def test_budget_and_warm_start(root: Path, finished: FinishedRun) -> None:
    shutil.copytree(finished.folder, root / "runs" / "demo")
    words = (
        "--warm-start", "runs/demo", "--compute-budget", "0.00001corehours",
        "--set", "search.max_epochs=4",
    )  # fmt: skip
    done = command(root, "launch", "space.yaml", "--name", "warm", "--data-dir", "data", *words)
    assert done.returncode == 0, done.stderr
    assert "warm start: 5 earlier trials" in done.stdout
    run = root / "runs" / "warm"
    (trial,) = jsonl.read(run / "trials.jsonl")
    assert trial["state"] == "PRUNED"
    too_small = "budget of core time of 0.036 s is too small: finalists and retraining alone take"
    assert trial["reason"].startswith(too_small)
    assert done.stdout.index(too_small) < done.stdout.index("search: 5 trials"), "said at once"
    assert f"the search has ended: {too_small}" in done.stdout
    assert len(trial["validation_rmse"]) == 2, "it stops at the epoch after the budget was used up"
    report = json.loads((run / "report.json").read_text())
    assert report["test"]["rmse"] > 0
    assert (report["trials"]["stopped"], report["trials"]["cut"]) == (0, 1)
    assert "1 cut by the budget" in (run / "report.md").read_text()
    assert report["compute"]["asha_saved_share"] is None
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["warm_start"] == ["runs/demo"]
    assert manifest["budget"]["limits"]["core_seconds"] == pytest.approx(0.036)


def test_an_extended_search_continues_in_the_same_study(root: Path, finished: FinishedRun) -> None:
    run = root / "runs" / "demo"
    shutil.copytree(finished.folder, run)
    before = jsonl.read(run / "trials.jsonl")
    report = json.loads((run / "report.json").read_text())
    done = command(root, "extend", "runs/demo", "--trials", "2", "--data-dir", "data")
    assert done.returncode == 0, done.stderr
    after = jsonl.read(run / "trials.jsonl")
    assert after[:5] == before
    assert [trial["number"] for trial in after] == list(range(7))
    assert {trial["state"] for trial in after} <= {"COMPLETE", "PRUNED"}
    extended = json.loads((run / "report.json").read_text())
    trials = extended["trials"]
    assert trials["completed"] + trials["stopped"] == 7
    (earlier,) = extended["run"]["earlier_reports"]
    assert earlier["rmse"] == report["test"]["rmse"]
    assert "extended after a report" in (run / "report.md").read_text()
    trained = [e["trial"]["name"] for e in journal(run) if e["event"] == "trial"]
    baseline = [name for name in trained if "mnist" in name]
    assert len(baseline) == 2, "the network of 2016 is not trained again"


def journal(run: Path) -> list[jsonl.Record]:
    """All events so far."""
    path = run / "journal.jsonl"
    return jsonl.read(path) if path.exists() else []
