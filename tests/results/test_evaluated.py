"""`evaluate` on the exported model and MNIST's files gives the report's figures."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest

import crnn_search
from crnn_search.data import mnist
from crnn_search.data.digits import Digits
from crnn_search.data.mnist_sums import MnistSums
from crnn_search.models import export
from crnn_search.results import scored, scores
from crnn_search.storage.run_folder import RunFolder
from tests.results.test_report import assert_close
from tests.small_run import write_mnist


def test_on_mnist_the_figures_are_those_of_the_report(
    reported: RunFolder, written: dict[str, Any], sums: MnistSums, digits: Digits, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder, run = tmp_path / "files", RunFolder(tmp_path / "night")
    write_mnist(folder, digits)
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in mnist.FILES}
    monkeypatch.setattr(mnist, "FILES", files)
    monkeypatch.setattr(export, "EXPORT_CHECK_SEQUENCES", 10)
    shutil.copytree(reported.root, run.root)
    export.export_winner(run, ("onnx",), sums, {})
    found = crnn_search.evaluate(run.root, folder)
    known = scored.read(run)
    exported = scores.score([known.predictions["winner"][0]], known.table, sums=True)
    assert_close(found["score"], exported.to_dict())
    assert found["score"]["rmse"] == pytest.approx(written["test"]["exported_rmse"], rel=1e-5)
    assert found["images"] == written["test"]["images"] == 1000
    for name in ("mean_guess", "count_only"):
        assert found["baselines"][name] == written["baselines"][name]
    counts = written["test"]["sequences_by_length"]
    assert found["score"]["sequences_by_length"] == counts
    assert sum(counts.values()) == 2000
