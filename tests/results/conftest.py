from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crnn_search.data import digits as tables
from crnn_search.data.digits import Digits
from crnn_search.data.mnist_sums import MnistSums
from crnn_search.data.own import OwnSequences
from crnn_search.results import importance, report
from crnn_search.storage.files import read_json
from crnn_search.storage.run_folder import RunFolder
from tests.results.result_files import make_run, own_task


@contextlib.contextmanager
def few_sequences() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "TEST_SEQUENCES", 2000)
        patch.setattr(tables, "LONGER_SEQUENCES", 20)
        patch.setattr(importance, "RESAMPLES", 2)
        yield


@pytest.fixture(scope="module", autouse=True)
def few_test_sequences() -> Iterator[None]:
    with few_sequences():
        yield


@pytest.fixture(scope="session")
def sums(digits: Digits) -> MnistSums:
    """Sums of 1 to 5 synthetic digits."""
    return MnistSums(digits, 5)


@pytest.fixture(scope="session")
def own() -> OwnSequences:
    """A user's own data set, small and random, of sequences in groups."""
    return own_task()


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory, sums: MnistSums) -> RunFolder:
    """A run with its report, not to be changed."""
    run = make_run(tmp_path_factory.mktemp("runs") / "night", sums.info)
    with few_sequences():
        report.write_report(run, sums)
    return run


@pytest.fixture
def written(reported: RunFolder) -> dict[str, Any]:
    """The content of its report.json, for a test to change."""
    return dict(read_json(reported.report_json))


@pytest.fixture
def fresh(tmp_path: Path, sums: MnistSums) -> RunFolder:
    """A run without a report, for a test to change."""
    return make_run(tmp_path / "fresh", sums.info)


@pytest.fixture(scope="session")
def own_reported(tmp_path_factory: pytest.TempPathFactory, own: OwnSequences) -> RunFolder:
    """A run on the user's own data with its report, not to be changed."""
    run = make_run(tmp_path_factory.mktemp("runs") / "day", own.info)
    with few_sequences():
        report.write_report(run, own)
    return run


@pytest.fixture
def own_written(own_reported: RunFolder) -> dict[str, Any]:
    """The content of its report.json, for a test to change."""
    return dict(read_json(own_reported.report_json))
