"""The time that a network takes to predict, measured by few passes."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import Tensor

from crnn_search.data.sequences import SequenceTable
from crnn_search.hyperparameters import LARGEST_SHAPE, MNIST_SHAPE, ImageShape, ModelSpec
from crnn_search.training import prediction_time
from crnn_search.training.model import CRNN
from crnn_search.training.prediction_time import BATCH, FEW, ms_per_sequence

SMALL = ModelSpec(conv_channels=(2,), pooling=(4,), gru_sizes=(4,))
LARGE = ModelSpec(conv_channels=(16, 32), gru_sizes=(128,))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Sequences and time steps of each pass; a pass takes the next of `SECONDS`."""
    seen: list[tuple[int, int]] = []

    def seconds(model: CRNN, sequences: int, steps: int) -> float:
        seen.append((sequences, steps))
        return SECONDS[len(seen) - 1]

    monkeypatch.setattr(prediction_time, "_seconds", seconds)
    return seen


SECONDS: list[float] = []


def measured(seconds: list[float], limit_ms: float, **sequence: Any) -> float:
    SECONDS[:] = seconds
    shape, longest = sequence.get("shape", MNIST_SHAPE), sequence.get("longest", 8)
    return ms_per_sequence(SMALL, shape, longest, limit_ms)


def test_a_larger_network_takes_longer() -> None:
    small, large = (ms_per_sequence(spec, MNIST_SHAPE, 8, 1e-6) for spec in (SMALL, LARGE))
    assert 0 < 2 * small < large < 1000


def test_threads_and_random_numbers_are_left_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def predict(model: CRNN, images: Tensor, table: SequenceTable) -> Tensor:
        seen.append(torch.get_num_threads())
        raise MemoryError("no memory for the gates")

    monkeypatch.setattr(prediction_time, "predict", predict)
    state = torch.get_rng_state()
    torch.set_num_threads(3)
    try:
        with pytest.raises(MemoryError, match="no memory for the gates"):
            ms_per_sequence(SMALL, MNIST_SHAPE, 8, 1.0)
        assert (seen, torch.get_num_threads()) == ([1], 3)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_cpu_time_of_whole_sequences_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def predict(model: CRNN, images: Tensor, table: SequenceTable) -> None:
        assert (images.dtype, images.shape) == (torch.uint8, (6 * 5, 3, 9, 8))
        assert len(images.unique()) > 200
        assert table.lengths.tolist() == [5] * 6
        assert table.indices.flatten().tolist() == list(range(30))
        time.sleep(0.2)

    monkeypatch.setattr(prediction_time, "predict", predict)
    assert prediction_time._seconds(CRNN(SMALL, ImageShape(3, 9, 8)), 6, 5) < 0.1


def test_it_is_the_lowest_of_five_passes(passes: list[tuple[int, int]]) -> None:
    assert measured([0.01, 0.64, 0.32, 0.256, 0.32, 0.32], 2.0) == pytest.approx(4.0)
    assert passes == [(FEW, 8)] + [(BATCH, 8)] * 5


@pytest.mark.parametrize("batch_s", [0.128, 1.3])
def test_a_time_within_the_limit_or_far_above_is_not_measured_again(
    passes: list[tuple[int, int]], batch_s: float
) -> None:
    assert measured([0.01, batch_s], 2.0) == pytest.approx(1000 * batch_s / 64)
    assert len(passes) == 2


def test_few_sequences_that_take_far_too_long_are_enough(passes: list[tuple[int, int]]) -> None:
    assert measured([0.4], 2.0) == pytest.approx(100)
    assert passes == [(FEW, 8)]


def test_few_sequences_that_take_little_time_prove_nothing(passes: list[tuple[int, int]]) -> None:
    """They may take it for what does not depend on their number."""
    assert measured([0.09, 0.128], 2.0) == pytest.approx(2.0)
    assert len(passes) == 2


@pytest.mark.parametrize(
    ("shape", "longest", "steps"),
    [(MNIST_SHAPE, 5, 5), (MNIST_SHAPE, 80, 8), (LARGEST_SHAPE, 30, 1)],
)
def test_of_large_images_and_long_sequences_some_steps_are_measured(
    passes: list[tuple[int, int]], shape: ImageShape, longest: int, steps: int
) -> None:
    sequence = {"shape": shape, "longest": longest}
    assert measured([0.01, 0.064], longest, **sequence) == pytest.approx(longest / steps)
    assert passes == [(FEW, steps), (BATCH, steps)]
