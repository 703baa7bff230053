"""What several test files share."""

from __future__ import annotations

import pytest
import torch

from crnn_search.data.sequences import TRAINING_IMAGES, Digits, SequenceTable, draw_table
from crnn_search.training.engine import TrainingData
from tests.small_run import FinishedRun, launch_small_run

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> Digits:
    """61,000 synthetic images that can be told apart: digit d is d bright rows, with noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (TRAINING_IMAGES + 1000,), generator=generator, dtype=torch.uint8)
    images = torch.randint(40, (len(labels), 28, 28), generator=generator, dtype=torch.uint8)
    bright = torch.arange(28)[None, :] < 2 * labels[:, None]
    images += (bright * 200).to(torch.uint8)[:, :, None]
    return Digits(images, labels)


@pytest.fixture
def training_data(digits: Digits) -> TrainingData:
    """A small training: 512 sequences an epoch, 200 for validation."""
    pool = torch.arange(1000)
    return TrainingData(digits, pool, small_table(digits, 200), epoch_sequences=512, max_digits=8)


def small_table(digits: Digits, sequences: int, seed: int = 1) -> SequenceTable:
    """Sequences of images 1,000 to 1,999."""
    return draw_table(torch.arange(1000, 2000), digits.labels, sequences, 8, seed)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, digits: Digits) -> FinishedRun:
    """A small search that has ended, on real Ray."""
    return launch_small_run(tmp_path_factory.mktemp("search"), digits)
