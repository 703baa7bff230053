"""Runs that are killed, interrupted or robbed of their files, and go on: real processes and Ray."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from crnn_search.data.sequences import Digits, split_images, validation_table
from crnn_search.hyperparameters import TrialConfig
from crnn_search.storage import jsonl
from crnn_search.training import engine
from crnn_search.training.engine import TrainingData
from tests import faulty
from tests.small_run import PROGRAM, SPACE, FinishedRun, command, start, write_mnist

TIMINGS = {"seconds", "core_seconds", "gpu_seconds", "node"}
KILLS = 10
READ_ONLY = """
mount --bind runs runs && mount -o remount,ro,bind runs && exec "$0" "$@"
"""
CPU = torch.device("cpu")


@pytest.fixture
def place(tmp_path: Path, digits: Digits) -> Path:
    """A folder with a space and data, where nothing was launched yet."""
    (tmp_path / "space.yaml").write_text(SPACE)
    write_mnist(tmp_path / "data", digits)
    return tmp_path


LAUNCH: tuple[str, ...] = ("launch", "space.yaml", "--name", "demo", "--data-dir", "data")
RESUME = ("resume", "runs/demo", "--data-dir", "data")


def without_timings(value: Any) -> Any:
    """JSON content without what no two runs have in common."""
    if isinstance(value, dict):
        return {k: without_timings(v) for k, v in value.items() if k not in TIMINGS}
    return [without_timings(item) for item in value] if isinstance(value, list) else value


def results(run: Path) -> dict[str, Any]:
    """Ledger, choices and report of a run, without timings and without its manifest."""
    report = json.loads((run / "report.json").read_text())
    del report["run"], report["compute"]
    found = {name: json.loads((run / name).read_text()) for name in ("best.json", "finalists.json")}
    ledger = jsonl.read(run / "trials.jsonl")
    return without_timings({"ledger": ledger, "report": report, **found})  # type: ignore[no-any-return]


def journal_length(run: Path) -> int:
    path = run / "journal.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_after(process: subprocess.Popen[bytes], run: Path, events: int, delay_s: float) -> bool:
    """Kill a process some time after it has written some events; False if it ended before."""
    before = journal_length(run)
    deadline = time.monotonic() + 120
    while journal_length(run) < before + events and process.poll() is None:
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.01)
    time.sleep(delay_s)
    if process.poll() is not None:
        return False
    process.send_signal(signal.SIGKILL)
    process.wait()
    return True


def test_killed_ten_times_it_ends_as_if_it_had_never_been(
    place: Path, finished: FinishedRun
) -> None:
    run = place / "runs" / "demo"
    draw = random.Random(7)
    kills = 0
    arguments: tuple[str, ...] = LAUNCH
    while kills < KILLS:
        process = start(place, *arguments)
        # 2: its session and stage; more: into the work. The delay falls anywhere in an epoch.
        killed = kill_after(process, run, draw.randint(2, 6), draw.uniform(0.0, 1.0))
        assert killed, f"the run ended after {kills} kills: {(place / 'log').read_text()}"
        kills += 1
        arguments = RESUME
    done = command(place, *RESUME)
    assert done.returncode == 0, done.stderr
    assert results(run) == results(finished.folder)
    assert len({trial["number"] for trial in jsonl.read(run / "trials.jsonl")}) == 5
    again = command(place, *RESUME)
    assert "nothing is left to do" in again.stdout


def wait_for(run: Path, after: int = 0, **wanted: Any) -> None:
    """Wait until the journal has an event with these fields, after the first so many."""
    deadline = time.monotonic() + 120
    path = run / "journal.jsonl"
    while not path.exists() or not any(
        wanted.items() <= event.items() for event in jsonl.read(path)[after:]
    ):
        assert time.monotonic() < deadline, f"{wanted} does not happen"
        time.sleep(0.02)


def test_interrupted_once_and_twice_it_goes_on(place: Path, finished: FinishedRun) -> None:
    run = place / "runs" / "demo"
    process = start(place, *LAUNCH)
    wait_for(run, event="epoch", name="trial-0001", epoch=1)
    assert "demo: searching; a process works on it" in command(place, "status", str(run)).stdout
    other = command(place, *RESUME)
    assert other.returncode == 2
    assert "another process works on runs/demo; wait for it or stop it" in other.stderr
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    printed = (place / "log").read_text()
    assert "interrupted: everything so far is kept; go on with\n  crnn-search resume " in printed

    status = command(place, "status", str(run))
    assert "nobody works on it" in status.stdout
    assert f"crnn-search resume {run}" in status.stdout
    events = jsonl.read(run / "journal.jsonl")
    ended = {trial["number"] for trial in jsonl.read(run / "trials.jsonl")}
    begun = [event["job"] for event in events if event["event"] == "job"]
    damaged = [job["name"] for job in begun if job["number"] not in ended]
    for name in damaged:
        for path in (run / "checkpoints" / name).glob("*.safetensors"):
            path.write_bytes(path.read_bytes()[:-7])

    known = journal_length(run)
    process = start(place, *RESUME)
    wait_for(run, known, event="epoch")
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 130
    done = command(place, *RESUME)
    assert done.returncode == 0, done.stderr
    assert results(run) == results(finished.folder)
    assert not list(run.glob(".*")), "temporary files stay behind"


def test_a_full_disk_ends_the_run_with_a_remedy_and_loses_nothing(
    place: Path, finished: FinishedRun
) -> None:
    run = place / "runs" / "demo"
    process = start(place, *LAUNCH, before=faulty.FULL_DISK)
    assert process.wait(timeout=120) == 1
    printed = (place / "log").read_text()
    assert "error: cannot write runs/demo/" in printed
    assert "No space left on device; what was recorded before is kept. Make room" in printed
    assert "1 of 5 ended" in command(place, "status", str(run)).stdout

    (place / "faults").mkdir()
    (place / "faults" / "full").touch()
    process = start(place, *RESUME, before=faulty.PROGRAM, FAULTS=str(place / "faults"))
    assert process.wait(timeout=120) == 1
    printed = (place / "log").read_text()
    assert "checkpoints/trial-0003: No space left on device; what was recorded before" in printed
    assert "trial-0003 failed" not in printed, "the disk is not the trial's fault"

    for path in (run / "checkpoints" / "trial-0003").iterdir():
        path.unlink()
    done = command(place, *RESUME)
    assert done.returncode == 0, done.stderr
    assert "go on with trial-0003 from epoch 1" in done.stdout
    assert "trial-0003: its checkpoint is gone; it is trained again" in done.stdout
    assert results(run) == results(finished.folder)


def test_a_read_only_folder_is_told_and_can_be_read(place: Path, finished: FinishedRun) -> None:
    run = place / "runs" / "demo"
    shutil.copytree(finished.folder, run)
    for name in ("report.json", "retrained.json"):
        (run / name).unlink()
    # As root, permissions mean nothing: only a mount is read-only, in a namespace of its own.
    mounted = ["unshare", "--mount", "sh", "-c", READ_ONLY, sys.executable, "-c", PROGRAM]
    if subprocess.run([*mounted[:4], "mount --bind runs runs"], cwd=place).returncode:
        pytest.skip("mounts are not allowed here")
    told = {}
    for words in (RESUME, ("status", "runs/demo")):
        told[words[0]] = subprocess.run(
            [*mounted, *words], cwd=place, capture_output=True, text=True, timeout=120
        )
    assert told["resume"].returncode == 1
    assert "error: cannot write runs/demo/" in told["resume"].stderr
    assert "Read-only file system" in told["resume"].stderr
    assert "folder writable again, then go on with crnn-search resume" in told["resume"].stderr
    assert told["status"].returncode == 0
    assert "5 of 5 ended" in told["status"].stdout


def test_a_deleted_model_is_named_and_written_again(place: Path, finished: FinishedRun) -> None:
    run = place / "runs" / "demo"
    shutil.copytree(finished.folder, run)
    next((run / "retrained").iterdir()).unlink()
    done = command(place, "report", "runs/demo", "--data-dir", "data")
    assert done.returncode == 2
    assert "a model in runs/demo/retrained is gone" in done.stderr
    assert "crnn-search resume runs/demo" in done.stderr
    done = command(place, *RESUME)
    assert done.returncode == 0, done.stderr
    assert results(run) == results(finished.folder)


def test_a_budget_and_a_warm_start_in_a_real_run(place: Path, finished: FinishedRun) -> None:
    shutil.copytree(finished.folder, place / "runs" / "demo")
    words = (
        "--warm-start", "runs/demo", "--compute-budget", "0.00001corehours",
        "--set", "search.max_epochs=4",
    )  # fmt: skip
    done = command(place, "launch", "space.yaml", "--name", "warm", "--data-dir", "data", *words)
    assert done.returncode == 0, done.stderr
    assert "warm start: 5 earlier trials" in done.stdout
    run = place / "runs" / "warm"
    (trial,) = jsonl.read(run / "trials.jsonl")
    assert trial["state"] == "PRUNED"
    assert trial["reason"].startswith("budget of core hours of 1e-05 h: ")
    assert len(trial["values"]) == 2, "it is stopped at the epoch after the budget was reached"
    report = json.loads((run / "report.json").read_text())
    assert report["test"]["rmse"] > 0
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["warm_start"] == ["runs/demo"]
    assert manifest["budget"]["limits"]["core_seconds"] == pytest.approx(0.036)


def test_an_extended_search_goes_on_in_the_same_study(place: Path, finished: FinishedRun) -> None:
    run = place / "runs" / "demo"
    shutil.copytree(finished.folder, run)
    before = jsonl.read(run / "trials.jsonl")
    report = json.loads((run / "report.json").read_text())
    done = command(place, "extend", "runs/demo", "--trials", "2", "--data-dir", "data")
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
    retrained = [e for e in jsonl.read(run / "journal.jsonl") if e.get("stage") == "retrain"]
    baseline = [e for e in retrained if e["event"] == "job" and "mnist" in e["job"]["name"]]
    assert len(baseline) == 2, "the network of 2016 is not trained again"


FAULTY = """
search: {trials: 7, max_epochs: 2, grace_epochs: 2, epoch_sequences: 512,
         max_concurrent_trials: 2, seed: 3}
retrain: {epochs: 1, epoch_sequences: 256, seeds: 1, finalists: 1}
first:
  - {learning_rate: 0.005}
  - {learning_rate: 0.006}
  - {learning_rate: 0.007}
  - {learning_rate: 0.008}
  - {learning_rate: 0.009}
  - {learning_rate: 0.010}
  - {learning_rate: 0.011}
space:
  conv_channels: 4
  kernel_size: 5
  pooling: 4
  gru_sizes: [8]
  learning_rate: {float: [5.0e-3, 3.0e-2], log: true}
  batch_size: 32
"""


def test_faults_in_some_trials_leave_the_others_alone(place: Path, digits: Digits) -> None:
    (place / "space.yaml").write_text(FAULTY)
    (place / "faults").mkdir()
    process = start(place, *LAUNCH, before=faulty.PROGRAM, FAULTS=str(place / "faults"))
    assert process.wait(timeout=300) == 0, (place / "log").read_text()
    run = place / "runs" / "demo"
    trials = {trial["number"]: trial for trial in jsonl.read(run / "trials.jsonl")}
    told = {number: (trial["state"], trial["reason"]) for number, trial in trials.items()}
    assert told == {
        0: ("COMPLETE", None),
        1: ("COMPLETE", None),
        2: ("FAIL", "diverged: training loss nan in epoch 2"),
        3: ("FAIL", "ValueError: a fault that was put in"),
        4: ("COMPLETE", None),
        5: ("FAIL", "out of memory: OutOfMemoryError: a device that is full"),
        6: ("COMPLETE", None),
    }
    for trial in trials.values():
        expected = undisturbed(trial, digits)
        assert trial["values"][: len(expected)] == expected[: len(trial["values"])]
    events = jsonl.read(run / "journal.jsonl")
    again = [(event["name"], event["cause"]) for event in events if event["event"] == "again"]
    assert sorted(again) == [
        ("trial-0001", "process died"),
        ("trial-0004", "out of memory"),
        ("trial-0005", "out of memory"),
    ]
    study = optuna.load_study(study_name="demo", storage=f"sqlite:///{run / 'study.db'}")
    assert {t.number: t.state.name for t in study.trials} == {n: s for n, (s, _) in told.items()}


def undisturbed(trial: dict[str, Any], digits: Digits) -> list[float]:
    """The values of a trial that nothing happened to, up to an epoch that failed."""
    state = engine.start(
        TrialConfig.from_dict(trial["config"]), seed=trial["seed"], epochs=2, device=CPU
    )
    training = Digits(digits.images[:60_000], digits.labels[:60_000])
    pool, _ = split_images(training.labels)
    table = validation_table(training.labels, 8)
    sound = 2 if trial["state"] == "COMPLETE" else 1
    epochs = itertools.islice(
        engine.train(state, TrainingData(training, pool, table, 512, 8)), sound
    )
    return [metrics.validation_rmse for metrics in epochs if metrics.validation_rmse]
