"""The benchmark's peers do the same work as the engine."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils.data import DataLoader

from benchmarks.peers import keras_demo, recipe
from benchmarks.work import (
    NETWORKS,
    Trained,
    Work,
    epochs_per_hour,
    padded,
    start_s,
    validation,
)
from crnn_search.data.digits import Digits, draw_table
from crnn_search.data.mnist_sums import MnistSums
from crnn_search.hyperparameters import TrialConfig
from crnn_search.training import engine, predict
from crnn_search.training.engine import TrainingData
from crnn_search.training.model import CRNN
from tests.conftest import small_table

CPU = torch.device("cpu")


@pytest.fixture(params=NETWORKS)
def config(request: pytest.FixtureRequest) -> TrialConfig:
    return TrialConfig.from_dict(NETWORKS[request.param])


def initial(config: TrialConfig) -> CRNN:
    """A network whose batch norm, if any, has statistics of some images."""
    model = engine.start(config, seed=5, epochs=1, device=CPU).model
    model(torch.rand(16, 1, 28, 28), torch.tensor([16]))
    return model.eval()


def test_plain_network_gives_the_packages_sums(config: TrialConfig, digits: Digits) -> None:
    model, plain = initial(config), recipe.PlainCRNN(config.model).eval()
    plain.load_state_dict(model.state_dict())
    table = small_table(digits, 40)
    images, lengths, sums = next(iter(DataLoader(recipe.Sequences(digits, table), 40)))
    assert torch.equal(images, padded(digits, table, slice(None)))
    assert torch.equal(sums.float(), table.targets)
    with torch.no_grad():
        torch.testing.assert_close(
            plain(images, lengths),
            predict.predict(model, digits.pixels, table),
            rtol=1e-4,
            atol=1e-5,
        )


def test_plain_training_is_the_engines(digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Work, "digits", lambda work: digits)
    config = {
        "conv_channels": [4], "kernel_size": 5, "pooling": 4, "batch_norm": False,
        "gru_sizes": [8], "batch_size": 32, "learning_rate": 0.01,
    }  # fmt: skip
    work = Work(config, (3, 4), 2, 160)
    plain = [rmse for rmse, _, _ in recipe.train(work, 3, num_workers=0)]
    data = TrainingData(MnistSums(digits, 8), validation(digits.labels, 160), 160)
    state = engine.start(work.spec(), seed=3, epochs=2, device=CPU)
    ours = [engine.train_epoch(state, data).validation_rmse for _ in range(2)]
    assert plain == pytest.approx(ours, rel=1e-3)


@pytest.mark.slow  # only make test-slow installs Keras
def test_keras_model_gives_the_packages_sums(
    config: TrialConfig, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    model, its = initial(config), keras_demo.build(config.model)
    counted = [v for name, v in model.state_dict().items() if "num_batches" not in name]
    assert its.count_params() == sum(value.numel() for value in counted)
    keras_demo.copy_weights(model, its)
    table = draw_table(torch.arange(1000), digits.labels, 100, 8, 0)
    whole = (table.lengths == 8).nonzero().flatten()  # Keras reads the padding of shorter ones
    table = dataclasses.replace(
        table,
        indices=table.indices[whole],
        lengths=table.lengths[whole],
        targets=table.targets[whole],
    )
    images, sums = keras_demo.arrays(digits, table)
    assert sums.tolist() == table.targets.tolist()
    with torch.no_grad():
        predicted = its(images, training=False).squeeze(1)
    torch.testing.assert_close(
        predicted.cpu(), predict.predict(model, digits.pixels, table), rtol=1e-4, atol=1e-5
    )


def test_validation_repeats_images_as_a_search_does(digits: Digits) -> None:
    for sequences in (600, 6000, 60_000):
        table = validation(digits.labels, sequences)
        assert len(table) == sequences // 3
        used = torch.unique(table.indices[table.indices > 0])
        assert len(used) == pytest.approx(sequences / 6, rel=0.02)


def test_speed_counts_from_the_first_epochs_end() -> None:
    trials = [Trained([110.0, 114.0, 118.0], [3.0, 2.0, 1.0]), Trained([112.0, 114.0, 116.0], [])]
    assert epochs_per_hour(trials) == 3600 / 4 + 3600 / 2
    assert start_s(trials, start=100.0) == (6 + 10) / 2
