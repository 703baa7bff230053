from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crnn_search.data import sequences
from crnn_search.data.sequences import Digits
from crnn_search.results import report
from crnn_search.storage.files import read_json
from crnn_search.storage.run_folder import RunFolder
from tests.results.result_files import make_run


@pytest.fixture(scope="module")
def few_test_sequences() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequences, "TEST_SEQUENCES", 2000)
        yield


@pytest.fixture(scope="module")
def reported(
    tmp_path_factory: pytest.TempPathFactory, digits: Digits, few_test_sequences: None
) -> RunFolder:
    """A run with its report, not to be changed."""
    run = make_run(tmp_path_factory.mktemp("runs") / "night")
    report.write_report(run, digits)
    return run


@pytest.fixture
def written(reported: RunFolder) -> dict[str, Any]:
    """The content of its report.json, for a test to change."""
    return dict(read_json(reported.report_json))


@pytest.fixture
def fresh(tmp_path: Path, few_test_sequences: None) -> RunFolder:
    """A run without a report, for a test to change."""
    return make_run(tmp_path / "fresh")
