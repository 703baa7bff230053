"""Targets are standardised for training; every figure is in their own unit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from crnn_search.data.arrays import SequenceData
from crnn_search.data.own import OwnSequences, OwnSource
from crnn_search.data.read import read
from crnn_search.storage.cache import CACHE_VARIABLE
from crnn_search.training import engine
from crnn_search.training.engine import TrainingData
from crnn_search.training.metrics import rmse
from crnn_search.training.predict import predict
from tests.training.test_engine import CPU, SMALL


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OwnSequences:
    """Targets about 1,000,000 ± 30; colour."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (60, 4, 24, 28, 3), dtype=np.uint8)
    targets = 1e6 + 30 * random.standard_normal(60)
    data = SequenceData(images=images, lengths=random.integers(1, 5, 60), targets=targets)
    return OwnSource(read(data), "clips").load()


def test_figures_are_in_the_targets_unit(task: OwnSequences) -> None:
    info = task.info
    data = TrainingData(task, task.validation_table(), 100)
    state = engine.start(SMALL, seed=0, epochs=1, device=CPU, shape=info.shape)
    metrics = engine.train_epoch(state, data)
    assert metrics.validation_rmse is not None
    assert metrics.validation_rmse == pytest.approx(info.scale, rel=0.9)
    assert metrics.train_loss == pytest.approx(info.scale**2, rel=0.9)
    assert metrics.exact_sum_rate is None
    predictions = predict(state.model, task.images, task.validation)
    state.model.scale_output(info.center, info.scale)
    scaled = predict(state.model, task.images, task.validation)
    torch.testing.assert_close(
        scaled.double(), predictions.double() * info.scale + info.center, rtol=1e-6, atol=0.1
    )
    assert rmse(scaled, task.validation.targets) == pytest.approx(metrics.validation_rmse, rel=0.01)


def test_the_unit_does_not_change_the_training(task: OwnSequences) -> None:
    def losses(scale: float, center: float) -> list[float]:
        def converted(targets: torch.Tensor) -> torch.Tensor:
            return targets * scale + center

        table, held = task.training, task.validation
        other = dataclasses.replace(
            task,
            training=dataclasses.replace(table, targets=converted(table.targets)),
            validation=dataclasses.replace(held, targets=converted(held.targets)),
            info=dataclasses.replace(
                task.info, center=task.info.center * scale + center, scale=task.info.scale * scale
            ),
        )
        state = engine.start(SMALL, seed=0, epochs=2, device=CPU, shape=task.info.shape)
        data = TrainingData(other, other.validation_table(), 100)
        return [engine.train_epoch(state, data).train_loss / scale**2 for _ in range(2)]

    assert losses(1e-3, -1000.0) == pytest.approx(losses(1.0, 0.0), rel=1e-4)
