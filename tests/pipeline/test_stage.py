"""A stage of fixed trials runs those that an earlier session has not ended, and no others."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from rich.console import Console

from crnn_search.cli.display import PlainProgress
from crnn_search.hyperparameters import MNIST_CRNN_2016, Arithmetic
from crnn_search.pipeline import stage
from crnn_search.spaces.file import parse_space
from crnn_search.storage import jsonl
from crnn_search.storage.journal import History, Journal
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import Trial, TrialRecord, TrialState
from crnn_search.training import checkpoint, engine
from crnn_search.tuning import stage_log
from crnn_search.tuning.callback import RunCallback
from crnn_search.tuning.context import Context

TRIALS = [
    Trial(f"trial-{k}", k, MNIST_CRNN_2016, seed=k, epochs=2, grace_epochs=2,
          epoch_sequences=64, data="mnist_sums/8", all_images=True)
    for k in range(2)
]  # fmt: skip
TRAINED = TrialRecord(TRIALS[0], train_loss=[2.0, 1.0], checkpoint="checkpoints/trial-0/last")
ENDED = dataclasses.replace(TRAINED, state=TrialState.COMPLETE)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the trials that are run; each completes."""
    names: list[str] = []

    def run_trials(_: Context, trials: Sequence[Trial], callback: RunCallback) -> None:
        for trial in trials:
            names.append(trial.name)
            callback.records[trial.name].train_loss.extend([2.0, 1.0])
            callback.finish(callback.records[trial.name])

    monkeypatch.setattr("crnn_search.pipeline.stage.tuner.run_trials", run_trials)
    monkeypatch.setattr(stage_log, "TensorBoard", mock.MagicMock())
    return names


def context(folder: Path, *records: TrialRecord) -> Context:
    """A run with records of an earlier session, without digits and without a cluster."""
    run = RunFolder(folder)
    known = {record.trial.name: dataclasses.replace(record) for record in records}
    missing: Any = None
    return Context(
        run=run,
        space=parse_space("space: {}"),
        history=History(stages={"retrain": known}),
        journal=Journal(run),
        task=missing,
        allocation=missing,
        arithmetic=Arithmetic(),
        progress=PlainProgress(Console(quiet=True)),
    )


def run_stage(context: Context, *, keeps_models: bool = False) -> list[TrialState]:
    records = stage.run_stage(context, "retrain", "retraining", TRIALS, keeps_models=keeps_models)
    assert [record.trial.name for record in records] == ["trial-0", "trial-1"]
    return [record.state for record in records]


BOTH_COMPLETE = [TrialState.COMPLETE, TrialState.COMPLETE]


def test_all_trials_of_a_new_stage_run(tmp_path: Path, started: list[str]) -> None:
    assert run_stage(context(tmp_path)) == BOTH_COMPLETE
    assert started == ["trial-0", "trial-1"]
    events = [event["event"] for event in jsonl.read(tmp_path / "journal.jsonl")]
    assert events == ["stage", "trial", "trial", "ended", "ended"]


def test_ended_trials_are_not_run_again(tmp_path: Path, started: list[str]) -> None:
    assert run_stage(context(tmp_path, ENDED)) == BOTH_COMPLETE
    assert started == ["trial-1"]


def test_trained_trial_is_ended_without_running(tmp_path: Path, started: list[str]) -> None:
    assert run_stage(context(tmp_path, TRAINED)) == BOTH_COMPLETE
    assert started == ["trial-1"]


def test_failed_trial_is_ended_without_running(tmp_path: Path, started: list[str]) -> None:
    failed = dataclasses.replace(TRAINED, train_loss=[None], failure="diverged")
    assert run_stage(context(tmp_path, failed)) == [TrialState.FAIL, TrialState.COMPLETE]
    assert started == ["trial-1"]


@pytest.mark.parametrize(
    "change", [{"seed": 9}, {"epoch_sequences": 65}, {"arithmetic": Arithmetic("bfloat16")}]
)
def test_record_of_another_training_is_not_used(
    tmp_path: Path, started: list[str], change: dict[str, Any]
) -> None:
    other = dataclasses.replace(ENDED, trial=dataclasses.replace(TRIALS[0], **change))
    assert run_stage(context(tmp_path, other)) == BOTH_COMPLETE
    assert started == ["trial-0", "trial-1"]


@pytest.mark.parametrize("damage", ["missing", "cut", "of another trial", "of another epoch"])
def test_trial_runs_again_if_its_model_is_not_whole(
    tmp_path: Path, started: list[str], damage: str
) -> None:
    path = tmp_path / str(ENDED.checkpoint)
    save(path, TRIALS[damage == "of another trial"], epoch=1 if damage == "of another epoch" else 2)
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-7])
    assert run_stage(context(tmp_path, ENDED), keeps_models=True) == BOTH_COMPLETE
    assert started == ["trial-0", "trial-1"]


def save(path: Path, trial: Trial, epoch: int) -> None:
    """Save a checkpoint of a trial that was not trained."""
    path.parent.mkdir(parents=True)
    state = engine.start(trial.config, seed=0, epochs=2, device=torch.device("cpu"))
    state.epoch = epoch
    checkpoint.save_state(path, state, trial.to_dict())


def test_trial_whose_model_exists_is_not_run_again(tmp_path: Path, started: list[str]) -> None:
    save(tmp_path / str(ENDED.checkpoint), TRIALS[0], epoch=2)
    assert run_stage(context(tmp_path, ENDED), keeps_models=True) == BOTH_COMPLETE
    assert started == ["trial-1"]
