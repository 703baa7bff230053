from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from crnn_search.errors import ModelFileError, StorageError
from crnn_search.hyperparameters import Arithmetic, TrialConfig
from crnn_search.training import checkpoint, engine
from crnn_search.training.engine import TrainingData
from tests.training.test_engine import CPU, SMALL, changed, reproducible

TRIAL = {"name": "trial-0000", "seed": 4, "max_digits": 8, "arithmetic": {"precision": "float32"}}


@pytest.mark.parametrize(
    "config",
    [
        changed(SMALL, dropout=0.3, augmentation=0.3),
        changed(
            SMALL, optimizer="rmsprop", weight_decay=0.1, schedule="constant", batch_norm=False
        ),
    ],
)
def test_resumed_training_equals_an_uninterrupted_one(
    config: TrialConfig, training_data: TrainingData, tmp_path: Path
) -> None:
    data = dataclasses.replace(training_data, epoch_sequences=128)
    state = engine.start(config, seed=4, epochs=3, device=CPU)
    expected = []
    for epoch in (1, 2, 3):
        expected.append(reproducible(engine.train_epoch(state, data)))
        checkpoint.save_state(tmp_path / f"{epoch}.safetensors", state, TRIAL)
    for done in (1, 2):
        resumed = checkpoint.load_state(tmp_path / f"{done}.safetensors", CPU).state
        rest = [reproducible(engine.train_epoch(resumed, data)) for _ in range(3 - done)]
        assert rest == expected[done:]
        for name, value in resumed.model.state_dict().items():
            assert torch.equal(value, state.model.state_dict()[name])


def test_checkpoint_returns_trial_and_history(tmp_path: Path) -> None:
    state = engine.start(SMALL, seed=4, epochs=3, device=CPU)
    state.epoch, history = 1, [{"epoch": 1, "validation_rmse": 2.5}]
    path = tmp_path / "epoch-0001.safetensors"
    checkpoint.save_state(path, state, TRIAL, history)
    loaded = checkpoint.load_state(path, CPU, Arithmetic("bfloat16"))
    assert (loaded.trial, loaded.history) == (TRIAL, history)
    assert (loaded.state.config, loaded.state.seed) == (SMALL, 4)
    assert (loaded.state.epoch, loaded.state.epochs) == (1, 3)
    assert loaded.state.arithmetic == Arithmetic("bfloat16")
    assert loaded.state.model.precision == "bfloat16"


def test_model_file_returns_model_config_and_info(tmp_path: Path) -> None:
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


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    checkpoint.save_model(path, engine.start(SMALL, seed=0, epochs=1, device=CPU).model, SMALL, {})
    return path


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"model.safetensors does not exist"):
        checkpoint.load_model(tmp_path / "model.safetensors")


def test_text_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"hello")
    with pytest.raises(ModelFileError, match="truncated, altered or not a safetensors file"):
        checkpoint.load_model(path)


@pytest.mark.parametrize("removed", [1, 100, 5000, "all"])
def test_truncated_file_is_refused(model_file: Path, removed: int | str) -> None:
    content = model_file.read_bytes()
    model_file.write_bytes(b"" if removed == "all" else content[: -int(removed)])
    with pytest.raises(ModelFileError, match="truncated, altered or not a safetensors file"):
        checkpoint.load_model(model_file)


def test_altered_header_is_refused(model_file: Path) -> None:
    content = model_file.read_bytes()
    model_file.write_bytes(content.replace(b'\\"info\\"', b'\\"info\\\\', 1))
    with pytest.raises(ModelFileError, match="truncated, altered or not a safetensors file"):
        checkpoint.load_model(model_file)


def test_file_of_another_format_is_refused(model_file: Path) -> None:
    with pytest.raises(ModelFileError, match=r"must be 'crnn-search checkpoint 3', got '.* model"):
        checkpoint.load_state(model_file, CPU)


def test_invalid_configuration_is_refused(model_file: Path) -> None:
    content = model_file.read_bytes()
    model_file.write_bytes(content.replace(b"one_cycle", b"two_cycle"))
    with pytest.raises(ModelFileError, match="has an invalid configuration: schedule must be"):
        checkpoint.load_model(model_file)


def test_tensors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = engine.start(SMALL, seed=0, epochs=1, device=CPU).model
    path = tmp_path / "model.safetensors"
    checkpoint.save_model(path, model, changed(SMALL, gru_sizes=[5]), {})
    with pytest.raises(ModelFileError, match="do not fit its configuration"):
        checkpoint.load_model(path)


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    model = engine.start(SMALL, seed=0, epochs=1, device=CPU).model
    checkpoint.save_model(path, model, SMALL, {"version": 1})

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full_disk)
    with pytest.raises(StorageError, match="No space left"):
        checkpoint.save_model(path, model, SMALL, {"version": 2})
    assert checkpoint.load_model(path)[2] == {"version": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]
