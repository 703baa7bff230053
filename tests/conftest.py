"""Fixtures that several test files share, and the rules for fast and slow tests."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from crnn_search.data.digits import TRAINING_IMAGES, Digits, draw_table
from crnn_search.data.sequences import SequenceTable
from crnn_search.training.engine import TrainingData
from tests.small_run import FinishedRun, end_started, finished_run
from tests.tasks import FewDigits

FAST_LIMIT_S = 10
"""How long the call of a test may take that is not marked slow."""

SLOW_TIMEOUT_S = 600

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of programs that tests start: threads wait busily for a core
settings.register_profile("fast", max_examples=15, deadline=None, derandomize=True)
settings.register_profile("ci", max_examples=150, deadline=None, derandomize=True)
settings.load_profile("fast")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests their timeout; run fast tests of the finished run in one process.

    The longest tests come first, so that none of them runs alone at the end.
    """
    items.sort(key=_place)
    for item in items:
        if _may_be_slow(item):
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT_S))
        elif "finished" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("finished"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that takes too long and is not marked slow."""
    report = yield
    too_long = call.when == "call" and call.duration > FAST_LIMIT_S
    if too_long and report.passed and not _may_be_slow(item):
        report.outcome = "failed"
        report.longrepr = (
            f"{item.nodeid} took {call.duration:.1f} s. A test that is not marked slow may take "
            f"{FAST_LIMIT_S} s: make it faster, or mark it with @pytest.mark.slow"
        )
    return report


def _place(item: pytest.Item) -> float:
    marker = item.get_closest_marker("long")
    return -marker.args[0] if marker else 0.0


def _may_be_slow(item: pytest.Item) -> bool:
    """Whether a test is marked slow, or is a property test with many examples."""
    profile = item.config.getoption("--hypothesis-profile")
    many_examples = profile == "ci" and item.get_closest_marker("hypothesis") is not None
    return many_examples or any(item.get_closest_marker(name) for name in ("slow", "gpu"))


@pytest.fixture(autouse=True)
def _no_run_outlives_its_test() -> Iterator[None]:
    yield
    end_started()


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
    task = FewDigits(digits)
    return TrainingData(task, task.validation_table(), epoch_sequences=512)


def small_table(digits: Digits, sequences: int, seed: int = 1) -> SequenceTable:
    """Sequences of images 1,000 to 1,999."""
    return draw_table(torch.arange(1000, 2000), digits.labels, sequences, 8, seed)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temporary folder of this test run, the same in all processes of pytest-xdist."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def finished(shared_folder: Path, digits: Digits) -> FinishedRun:
    """A small search that has ended, on real Ray: one for all tests and all processes."""
    return finished_run(shared_folder / "finished", digits)
