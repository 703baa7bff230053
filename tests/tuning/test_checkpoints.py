"""The checkpoints of one trial: which are kept, and which one a trial continues from."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from crnn_search.errors import StorageError
from crnn_search.hyperparameters import Arithmetic, ModelSpec, TrainingSpec, TrialConfig
from crnn_search.storage.trial import METRIC, Trial
from crnn_search.training import checkpoint, engine
from crnn_search.tuning.checkpoints import CheckpointFolder, best_epoch
from tests.tuning.examples import TRIAL

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    return CheckpointFolder(tmp_path / TRIAL.name)


def save(folder: CheckpointFolder, *values: float, trial: Trial = TRIAL) -> list[dict[str, float]]:
    """Save an epoch for each value, of a state that was not really trained."""
    state = engine.start(trial.config, seed=trial.seed, epochs=trial.epochs, device=CPU)
    history: list[dict[str, float]] = []
    for value in values:
        state.epoch += 1
        history.append({METRIC: value, "epoch": state.epoch})
        folder.save(trial, state, history)
    return history


def names(folder: CheckpointFolder) -> list[str]:
    return sorted(path.name for path in folder.path.iterdir())


def test_newest_two_and_the_best_are_kept(folder: CheckpointFolder) -> None:
    history = save(folder, 3.0, 1.0, 2.5, 2.0)
    assert names(folder) == [f"epoch-000{epoch}.safetensors" for epoch in (2, 3, 4)]
    found = folder.load(TRIAL, CPU)
    assert found.state is not None
    assert (found.state.epoch, found.history, found.problems) == (4, history, [])


def test_damaged_checkpoint_is_named_and_the_one_before_used(folder: CheckpointFolder) -> None:
    history = save(folder, 3.0, 2.0)
    folder.file(2).write_bytes(folder.file(2).read_bytes()[:-100])
    found = folder.load(TRIAL, CPU)
    assert found.state is not None
    assert (found.state.epoch, found.history) == (1, history[:1])
    (problem,) = found.problems
    assert problem.startswith("checkpoint not used: ")
    assert "epoch-0002.safetensors is truncated" in problem


def test_new_trial_has_no_checkpoint(folder: CheckpointFolder) -> None:
    found = folder.load(TRIAL, CPU)
    assert (found.state, found.history, found.problems) == (None, [], [])


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 6},
        {"epochs": 5},
        {"grace_epochs": 2},
        {"epoch_sequences": 128},
        {"data": "mnist_sums/5"},
        {"all_images": True},
        {"arithmetic": Arithmetic("bfloat16")},
        {"arithmetic": Arithmetic("float32", cpu_kernels=True)},
        {"name": "trial-0001"},
        {"config": TrialConfig(ModelSpec(conv_channels=(4,)), TrainingSpec())},
    ],
    ids=lambda change: next(iter(change)),
)
def test_checkpoint_of_another_training_is_not_used(
    folder: CheckpointFolder, change: dict[str, Any]
) -> None:
    save(folder, 3.0)
    found = folder.load(dataclasses.replace(TRIAL, **change), CPU)
    assert found.state is None
    (problem,) = found.problems
    assert problem == f"checkpoint not used: {folder.file(1)} is of another training"


@pytest.mark.parametrize("change", [{"number": 7}, {"gpus": 0.5}])
def test_checkpoint_is_used_on_another_share_of_a_gpu(
    folder: CheckpointFolder, change: dict[str, Any]
) -> None:
    save(folder, 3.0)
    found = folder.load(dataclasses.replace(TRIAL, **change), CPU)
    assert found.state is not None
    assert found.problems == []


def test_checkpoint_of_an_altered_trial_is_not_used(folder: CheckpointFolder) -> None:
    state = engine.start(TRIAL.config, seed=TRIAL.seed, epochs=TRIAL.epochs, device=CPU)
    state.epoch = 1
    folder.path.mkdir()
    checkpoint.save_state(folder.file(1), state, {"name": TRIAL.name}, [])
    found = folder.load(TRIAL, CPU)
    assert found.state is None
    assert "is of another training" in found.problems[0]


def test_full_disk_is_reported_with_a_remedy(
    folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(folder, 3.0)

    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(StorageError, match=r"No space left on device; .*crnn-search resume"):
        save(folder, 3.0, 2.0)
    assert names(folder) == ["epoch-0001.safetensors"]


def test_checkpoint_that_cannot_be_removed_is_a_storage_error(
    folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(folder, 3.0)

    def read_only(path: Path, missing_ok: bool) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", read_only)
    with pytest.raises(StorageError, match=r"cannot write .*epoch-0001\.safetensors: Read-only"):
        folder.keep([])


@pytest.mark.parametrize(
    ("values", "epoch"),
    [
        ([3.0, 1.0, 2.0], 2),
        ([0.0, 1.0], 1),
        ([None, float("nan"), 4.0], 3),
        ([None, float("inf")], None),
        ([], None),
    ],
)
def test_best_epoch(values: list[float | None], epoch: int | None) -> None:
    assert best_epoch(values) == epoch
