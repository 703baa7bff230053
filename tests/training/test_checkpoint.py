from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from crnn_search.errors import ModelFileError, StorageError
from crnn_search.hyperparameters import TrialConfig
from crnn_search.storage.trial import METRIC, Job
from crnn_search.training import checkpoint, engine
from crnn_search.training.engine import TrainingData
from crnn_search.tuning.checkpoints import CheckpointFolder
from tests.training.test_engine import CPU, SMALL, changed, figures


@pytest.mark.parametrize(
    "config",
    [
        changed(SMALL, dropout=0.3, augmentation=0.3),
        changed(SMALL, optimizer="rmsprop", schedule="constant", batch_norm=False),
    ],
)
def test_a_resumed_training_equals_an_uninterrupted_one(
    config: TrialConfig, training_data: TrainingData, tmp_path: Path
) -> None:
    state = engine.start(config, seed=4, epochs=3, device=CPU)
    whole = []
    for metrics in engine.train(state, training_data):
        whole.append(figures(metrics))
        checkpoint.save_state(tmp_path / f"{metrics.epoch}.safetensors", state)
    for done in (1, 2):
        resumed, _ = checkpoint.load_state(tmp_path / f"{done}.safetensors", CPU)
        rest = [figures(metrics) for metrics in engine.train(resumed, training_data)]
        assert rest == whole[done:]
        for name, value in resumed.model.state_dict().items():
            assert torch.equal(value, state.model.state_dict()[name])


def test_a_model_comes_back_whole(tmp_path: Path) -> None:
    model = engine.start(SMALL, seed=0, epochs=1, device=CPU).model
    path = tmp_path / "model.safetensors"
    checkpoint.save_model(path, model, SMALL, {"max_digits": 8})
    loaded, config, info = checkpoint.load_model(path)
    assert config == SMALL
    assert info == {"max_digits": 8}
    assert not loaded.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_files_that_are_no_model_are_refused(tmp_path: Path) -> None:
    good = tmp_path / "good.safetensors"
    checkpoint.save_model(good, engine.start(SMALL, seed=0, epochs=1, device=CPU).model, SMALL, {})
    content = good.read_bytes()
    cases = {
        "missing.safetensors": (None, "does not exist"),
        "text.safetensors": (b"hello", "truncated, altered or no safetensors file"),
        "torn.safetensors": (content[: len(content) // 2], "truncated, altered"),
        "foreign.safetensors": (
            content.replace(b"crnn-search model 2", b"another format here"[:19]),
            "is no file of the kind 'crnn-search model 2'",
        ),
    }
    for name, (data, message) in cases.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(ModelFileError, match=message):
            checkpoint.load_model(tmp_path / name)
    with pytest.raises(ModelFileError, match="is no file of the kind 'crnn-search checkpoint 2'"):
        checkpoint.load_state(good, CPU)


def test_tensors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = engine.start(SMALL, seed=0, epochs=1, device=CPU).model
    path = tmp_path / "model.safetensors"
    checkpoint.save_model(path, model, changed(SMALL, gru_sizes=[5]), {})
    with pytest.raises(ModelFileError, match="do not fit its configuration"):
        checkpoint.load_model(path)


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    model = engine.start(SMALL, seed=0, epochs=1, device=CPU).model
    checkpoint.save_model(path, model, SMALL, {"version": 1})

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save_model(path, model, SMALL, {"version": 2})
    assert checkpoint.load_model(path)[2] == {"version": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_flipped_bit_in_a_tensor_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    checkpoint.save_model(path, engine.start(SMALL, seed=0, epochs=1, device=CPU).model, SMALL, {})
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="its checksum is wrong"):
        checkpoint.load_model(path)


JOB = Job("trial-0000", 0, SMALL.to_dict(), 5, 4, 1, 512, 8)


def trained(folder: CheckpointFolder, *values: float) -> list[dict[str, float]]:
    """Save an epoch for each value; the state stands for one that was trained."""
    state = engine.start(SMALL, seed=JOB.seed, epochs=JOB.epochs, device=CPU)
    history: list[dict[str, float]] = []
    for value in values:
        state.epoch += 1
        history.append({METRIC: value, "epoch": state.epoch})
        folder.save(state, history)
    return history


def names(folder: CheckpointFolder) -> list[str]:
    return sorted(path.name for path in folder.path.iterdir())


def test_the_newest_two_and_the_best_are_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "trial-0000")
    history = trained(folder, 3.0, 1.0, 2.5, 2.0)
    assert names(folder) == [f"epoch-000{epoch}.safetensors" for epoch in (2, 3, 4)]
    found = folder.load(JOB, CPU)
    assert found.state is not None
    assert (found.state.epoch, found.history, found.problems) == (4, history, [])


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "trial-0000")
    history = trained(folder, 3.0, 2.0)
    folder.file(2).write_bytes(folder.file(2).read_bytes()[:-100])
    found = folder.load(JOB, CPU)
    assert found.state is not None
    assert (found.state.epoch, found.history) == (1, history[:1])
    (problem,) = found.problems
    assert "epoch-0002.safetensors is truncated, altered" in problem


def test_without_a_usable_checkpoint_there_is_none(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "trial-0000")
    assert folder.load(JOB, CPU).state is None
    trained(folder, 3.0)
    other = Job(**{**JOB.to_dict(), "seed": 6})
    found = folder.load(other, CPU)
    assert found.state is None
    assert "is of another training" in found.problems[0]


def test_a_full_disk_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CheckpointFolder(tmp_path / "trial-0000")
    trained(folder, 3.0)

    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(StorageError, match=r"No space left on device; .*crnn-search resume"):
        trained(folder, 3.0, 2.0)
    assert names(folder) == ["epoch-0001.safetensors"]
