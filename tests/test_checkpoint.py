from __future__ import annotations

from pathlib import Path

import pytest
import torch

from crnn_search import checkpoint, engine
from crnn_search.config import TrialConfig
from crnn_search.engine import TrainingData
from crnn_search.errors import ModelFileError
from tests.test_engine import CPU, SMALL, changed, figures


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
        resumed = checkpoint.load_state(tmp_path / f"{done}.safetensors", CPU)
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
            content.replace(b"crnn-search model 1", b"another format here"[:19]),
            "is no file of the kind 'crnn-search model 1'",
        ),
    }
    for name, (data, message) in cases.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(ModelFileError, match=message):
            checkpoint.load_model(tmp_path / name)
    with pytest.raises(ModelFileError, match="is no file of the kind 'crnn-search checkpoint 1'"):
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
