from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crnn_search.data import digits as digit_tables
from crnn_search.data.digits import Digits, training_table
from crnn_search.data.mnist_sums import MnistSums
from crnn_search.data.task import Draw
from crnn_search.hyperparameters import Arithmetic, TrainingSpec
from crnn_search.training import engine, memory, probe
from crnn_search.training.cuda_graphs import WARM_UP_STEPS
from crnn_search.training.engine import TrainingData, TrainState
from crnn_search.training.metrics import EpochMetrics
from tests.training.test_engine import SMALL, changed


def shapes(count: int, training: TrainingSpec, longest: int) -> list[tuple[int, ...]]:
    """The shapes of an epoch's batches, each once, in the order in which they occur."""
    pool, labels = torch.arange(5), torch.zeros(5, dtype=torch.uint8)
    longest = min(training.max_sequence_length, longest)
    draw = Draw(count, longest, 0, 0, training.batch_size, reuse=training.reuse)
    batches = training_table(pool, labels, draw).batches(training.batch_size)
    found = [(len(batch.images), *batch.batch_sizes.tolist()) for batch in batches]
    return list(dict.fromkeys(found))


@given(st.integers(1, 600), st.integers(1, 40), st.integers(1, 12), st.sampled_from([1, 1, 2, 5]))
def test_short_epoch_has_all_shapes_of_an_epoch(
    count: int, size: int, longest: int, reuse: int
) -> None:
    training = TrainingSpec(batch_size=size * reuse, max_sequence_length=9, reuse=reuse)
    short = probe.shortest_epoch(count, training, longest)
    assert short <= min(count, (2 * longest + 1) * training.batch_size)
    assert shapes(short, training, longest) == shapes(count, training, longest)


def test_every_shape_and_a_whole_validation_are_measured(
    digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[int, int]] = []

    def train_epoch(state: TrainState, data: TrainingData) -> EpochMetrics:
        assert data.validation is not None
        trained.append((data.epoch_sequences, len(data.validation)))
        return whole_epoch(state, data)

    whole_epoch = engine.train_epoch
    monkeypatch.setattr(engine, "train_epoch", train_epoch)
    monkeypatch.setattr(digit_tables, "VALIDATION_SEQUENCES", 2_000)
    config = changed(SMALL, batch_size=64, max_sequence_length=7)
    assert probe.peak_of(config, MnistSums(digits, 8), 60_000, Arithmetic()) > 50
    assert trained == [(13 * 64 + 32, 2_000)]  # 937 batches and a rest: 937 % 7 = 6


def test_cost_is_of_the_sequences_that_an_epoch_really_has(
    digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand sequences in a second; a search validates, a retraining does not."""
    trained: list[int] = []

    def train_epoch(state: TrainState, data: TrainingData) -> EpochMetrics:
        trained.append(data.epoch_sequences)
        return EpochMetrics(1, 1.0, None, None, 1000.0, 0.1, 1.0, 1.0)

    monkeypatch.setattr(engine, "train_epoch", train_epoch)
    monkeypatch.setattr(digit_tables, "VALIDATION_SEQUENCES", 500)
    task, config = MnistSums(digits, 8), changed(SMALL, batch_size=6, reuse=3)
    cost = probe.cost_of(config, task, (2000, 100), Arithmetic())
    assert trained == [512, 512]
    assert cost.retrain_epoch_s == pytest.approx(0.099), "33 whole partitions of images"
    assert 1.998 < cost.search_epoch_s < 12
    assert cost.memory_mb > 50
    trained.clear()
    assert probe.pace_of(changed(SMALL, batch_size=900), task, 60_000, Arithmetic()) == 0.001
    assert trained == [900, 900], "a whole batch"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_probe_takes_as_much_as_an_epoch_on_cuda(digits: Digits) -> None:
    on_cuda = MnistSums(digits, 8).to(torch.device("cuda"))
    config = changed(SMALL, batch_size=64, max_sequence_length=7, conv_channels=[16, 32])
    probed = probe.peak_of(config, on_cuda, 20_000, Arithmetic())
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    device = on_cuda.images.device
    state = engine.start(config, seed=0, epochs=WARM_UP_STEPS + 1, device=device)
    data = TrainingData(on_cuda, on_cuda.validation_table(), 20_000)
    for _ in range(WARM_UP_STEPS + 1):
        engine.train_epoch(state, data)
    assert probed == pytest.approx(memory.reserved_mb(device), rel=0.1)
