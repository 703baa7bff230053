"""The moving average of weights: what is validated, saved and exported."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from crnn_search.hyperparameters import Arithmetic
from crnn_search.kernels import native
from crnn_search.training import checkpoint, engine, optimizers
from crnn_search.training.engine import TrainingData, TrainState
from crnn_search.training.metrics import rmse
from crnn_search.training.model import CRNN
from crnn_search.training.predict import predict
from tests.training.test_engine import CPU, SMALL, changed, reproducible

EMA = changed(SMALL, ema=0.9, dropout=0.2)


@pytest.fixture
def data(training_data: TrainingData) -> TrainingData:
    """Twelve steps an epoch."""
    return dataclasses.replace(training_data, epoch_sequences=12 * 32 - 5)


def start(**values: Any) -> TrainState:
    return engine.start(changed(EMA, **values), seed=0, epochs=2, device=CPU)


def weights(model: CRNN) -> dict[str, Tensor]:
    """A copy of all weights and statistics, but for counts, in float64."""
    return {k: v.double() for k, v in model.state_dict().items() if v.is_floating_point()}


@pytest.mark.parametrize("ema", [0.5, 0.9])
def test_average_is_the_recursion_written_out(
    ema: float, data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of weights and of batch norm's statistics, over two epochs."""
    state = start(ema=ema)
    expected, after_steps = weights(state.model), list[dict[str, Tensor]]()

    def step(*arguments: Any) -> None:
        whole_step(*arguments)
        after_steps.append(weights(state.model))

    whole_step = optimizers.step
    monkeypatch.setattr(optimizers, "step", step)
    for _ in range(2):
        engine.train_epoch(state, data)
    assert len(after_steps) == 24
    for number, values in enumerate(after_steps):
        stays = min(ema, (1 + number) / (10 + number))
        expected = {k: stays * mean + (1 - stays) * values[k] for k, mean in expected.items()}
    assert state.average is not None
    assert "encoder.1.running_var" in expected
    for name, value in weights(state.average).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
        assert not torch.equal(value, weights(state.model)[name])


def test_the_average_is_validated(data: TrainingData) -> None:
    state = start()
    found = engine.train_epoch(state, data).validation_rmse
    assert data.validation is not None
    images, table = data.task.images, data.validation
    assert state.result is state.average is not None
    assert found == rmse(predict(state.average, images, table), table.targets)
    assert found != rmse(predict(state.model, images, table), table.targets)
    assert not any(parameter.requires_grad for parameter in state.average.parameters())


def test_the_average_does_not_change_the_training(data: TrainingData) -> None:
    plain, averaged = start(ema=0.0), start()
    for _ in range(2):
        expected, found = engine.train_epoch(plain, data), engine.train_epoch(averaged, data)
        assert found.train_loss == expected.train_loss
        assert found.validation_rmse != expected.validation_rmse
    for name, value in plain.model.state_dict().items():
        assert torch.equal(averaged.model.state_dict()[name], value)


def test_without_an_average_the_model_is_validated_and_saved(
    data: TrainingData, tmp_path: Path
) -> None:
    state = start(ema=0.0)
    assert state.average is None
    assert state.result is state.model
    found = engine.train_epoch(state, data).validation_rmse
    assert data.validation is not None
    predictions = predict(state.model, data.task.images, data.validation)
    assert found == rmse(predictions, data.validation.targets)
    checkpoint.save_state(tmp_path / "epoch.safetensors", state, {})
    with safe_open(tmp_path / "epoch.safetensors", "pt") as file:
        assert {name.split(".")[0] for name in file.keys()} == {"model", "optimizer"}  # noqa: SIM118


@pytest.mark.skipif(native.problem() is not None, reason="needs a C compiler")
def test_the_average_computes_with_the_compiled_kernels(data: TrainingData) -> None:
    arithmetic = Arithmetic("float32", cpu_kernels=True)
    state = engine.start(EMA, seed=0, epochs=1, device=CPU, arithmetic=arithmetic)
    engine.train_epoch(state, data)
    assert state.average is not None
    assert type(state.average.encoder) is type(state.model.encoder)
    plain = CRNN(EMA.model)
    plain.load_state_dict(copy.deepcopy(state.average.state_dict()))
    assert data.validation is not None
    images, table = data.task.images, data.validation
    torch.testing.assert_close(
        predict(state.average, images, table), predict(plain, images, table), rtol=1e-3, atol=1e-3
    )


def test_a_training_with_an_average_is_reproducible(data: TrainingData) -> None:
    first, second = start(), start()
    for _ in range(2):
        found = engine.train_epoch(first, data)
        assert reproducible(found) == reproducible(engine.train_epoch(second, data))
