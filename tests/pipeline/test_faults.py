"""A run whose folder is read-only, and trials that fail in each way."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from crnn_search.data.digits import Digits
from crnn_search.data.mnist_sums import MnistSums
from crnn_search.hyperparameters import Arithmetic, TrialConfig
from crnn_search.storage import jsonl
from crnn_search.training import engine
from crnn_search.training.engine import TrainingData
from tests import faulty
from tests.small_run import (
    LAUNCH,
    RESUME,
    FinishedRun,
    prepare,
    run_here,
    start,
    wait_for_end,
)

CPU = torch.device("cpu")


def test_a_read_only_folder_is_reported_and_its_status_can_be_read(
    tmp_path: Path, finished: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished.folder, tmp_path / "runs" / "demo")
    (tmp_path / "data").symlink_to(finished.root / "data")
    (tmp_path / "runs" / "demo" / "report.json").unlink()

    def refuse(path: Path, record: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(jsonl, "append", refuse)
    done = run_here(tmp_path, *RESUME)
    assert done.returncode == 1
    assert "error: cannot write runs/demo/journal.jsonl: Read-only file system" in done.stderr
    status = run_here(tmp_path, "status", "runs/demo")
    assert status.returncode == 0
    assert "5 of 5 ended" in status.stdout


SPACE = """
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


@pytest.mark.long(45)
@pytest.mark.slow
def test_failing_trials_do_not_change_the_others(tmp_path: Path, digits: Digits) -> None:
    prepare(tmp_path, digits, SPACE)
    (tmp_path / "faults").mkdir()
    process = start(
        tmp_path, *LAUNCH, before=faulty.PROGRAM, all_cores=True, FAULTS=str(tmp_path / "faults")
    )
    assert wait_for_end(process, tmp_path) == 0, (tmp_path / "log").read_text()
    run = tmp_path / "runs" / "demo"
    trials = {trial["number"]: trial for trial in jsonl.read(run / "trials.jsonl")}
    ended = {number: (trial["state"], trial["reason"]) for number, trial in trials.items()}
    assert ended == {
        0: ("COMPLETE", None),
        1: ("COMPLETE", None),
        2: ("FAIL", "diverged: training loss nan in epoch 2"),
        3: ("FAIL", "ValueError: a fault that was put in"),
        4: ("COMPLETE", None),
        5: ("FAIL", "out of memory: OutOfMemoryError: a device that is full"),
        6: ("COMPLETE", None),
    }
    arithmetic = Arithmetic(**json.loads((run / "manifest.json").read_text())["arithmetic"])
    for trial in trials.values():
        expected = undisturbed(trial, digits, arithmetic)
        assert trial["validation_rmse"][: len(expected)] == expected
    events = jsonl.read(run / "journal.jsonl")
    retries = [(event["name"], event["cause"]) for event in events if event["event"] == "retry"]
    assert sorted(retries) == [
        ("trial-0001", "process died"),
        ("trial-0004", "out of memory"),
        ("trial-0005", "out of memory"),
        ("trial-0006", "process died"),
    ]
    study = optuna.load_study(study_name="demo", storage=f"sqlite:///{run / 'study.db'}")
    states = {trial.number: trial.state.name for trial in study.trials}
    assert states == {number: state for number, (state, _) in ended.items()}


def undisturbed(trial: dict[str, Any], digits: Digits, arithmetic: Arithmetic) -> list[float]:
    """The validation RMSE of a trial without faults, of the epochs that did not fail."""
    state = engine.start(
        TrialConfig.from_dict(trial["config"]),
        seed=trial["seed"],
        epochs=2,
        device=CPU,
        arithmetic=arithmetic,
    )
    task = MnistSums(Digits(digits.images[:60_000], digits.labels[:60_000]), 8)
    data = TrainingData(task, task.validation_table(), 512)
    epochs = 2 if trial["state"] == "COMPLETE" else 1
    metrics = [engine.train_epoch(state, data) for _ in range(epochs)]
    return [epoch.validation_rmse for epoch in metrics if epoch.validation_rmse is not None]
