"""What `status` tells of a run, and that it needs neither Ray nor PyTorch for it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from crnn_search.results.status import describe, plan, read_status
from crnn_search.storage import jsonl
from crnn_search.storage.run_folder import RunPaths
from tests.small_run import FinishedRun, command

SEEN = """
import sys
from crnn_search.cli.app import app
app(["status", sys.argv[1]], standalone_mode=False)
print({"ray", "torch", "optuna"} & set(sys.modules))
"""


def test_a_finished_run_as_text_and_as_json(finished: FinishedRun) -> None:
    text = command(finished.root, "status", "runs/demo").stdout
    known = json.loads(command(finished.root, "status", "runs/demo", "--json").stdout)
    ledger = jsonl.read(finished.folder / "trials.jsonl")
    completed = [trial for trial in ledger if trial["state"] == "COMPLETE"]
    assert known["stage"] == "finished"
    assert known["trials"]["completed"] == len(completed)
    assert known["trials"]["asked"] == len(ledger) == 5
    assert known["best"]["rmse"] == min(trial["values"][-1] for trial in completed)
    assert sum(known["compute"]["core_seconds"].values()) > 0
    assert text.startswith("demo: finished\n  trials     5 of 5 ended: ")
    assert "resume" not in text


def test_status_needs_neither_ray_nor_torch(finished: FinishedRun) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SEEN, str(finished.folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.endswith("set()\n")


@pytest.fixture
def cut(tmp_path: Path, finished: FinishedRun) -> RunPaths:
    """The finished run, as it was when its second trial had begun."""
    run = tmp_path / "demo"
    run.mkdir()
    for name in ("space.yaml", "manifest.json"):
        shutil.copy(finished.folder / name, run / name)
    kept = []
    for event in jsonl.read(finished.folder / "journal.jsonl"):
        kept.append(event)
        if event["event"] == "job" and event["job"]["name"] == "trial-0001":
            break
    for event in kept:
        jsonl.append(run / "journal.jsonl", event)
    jsonl.append(run / "trials.jsonl", jsonl.read(finished.folder / "trials.jsonl")[0])
    return RunPaths(run)


def test_an_unfinished_run_says_what_is_left(cut: RunPaths) -> None:
    status = read_status(cut)
    text = describe(status)
    assert "demo: searching; nobody works on it" in text
    assert "1 of 5 ended" in text
    assert "begun      trial-0001, epoch 0 of 2" in text
    assert plan(status) == (
        "resume will go on with trial-0001 from epoch 0, begin 3 more trials, "
        "repeat the finalists, retrain the winner, report"
    )


def test_a_torn_last_line_is_passed_over(cut: RunPaths) -> None:
    whole = read_status(cut)
    for path in (cut.journal, cut.ledger):
        with path.open("ab") as file:
            file.write(b'{"event": "epo')
    assert read_status(cut) == whole
