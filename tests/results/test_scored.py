"""What is predicted for the test sequences, and pictures of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from crnn_search.data import digits as tables
from crnn_search.data.digits import TRAINING_IMAGES
from crnn_search.data.mnist_sums import MnistSums
from crnn_search.data.own import OwnSequences
from crnn_search.data.sequences import SequenceTable
from crnn_search.results import score_figures, scored
from crnn_search.results.page.pictures import pictures
from crnn_search.storage.run_folder import RunFolder


def test_steps_are_differences_of_running_predictions() -> None:
    table = SequenceTable(
        torch.tensor([[0, 1], [1, 0]], dtype=torch.int32), torch.tensor([2, 1]), torch.ones(2)
    )
    running = torch.tensor([[1.0, 4.0], [2.5, float("nan")]])
    found = score_figures.steps(running, table, torch.tensor([1, 2], dtype=torch.uint8))
    # errors: 1 - 1, (4 - 1) - 2, 2.5 - 2
    assert found["by_position"] == {
        "1": {"steps": 2, "mean": 0.25, "rmse": pytest.approx(0.125**0.5)},
        "2": {"steps": 1, "mean": 1.0, "rmse": 1.0},
    }
    assert found["by_digit"] == {
        "1": {"steps": 1, "mean": 0.0, "rmse": 0.0},
        "2": {"steps": 2, "mean": 0.75, "rmse": pytest.approx(0.625**0.5)},
    }


def test_worst_and_random_sequences(reported: RunFolder, sums: MnistSums) -> None:
    found, table = scored.read(reported), sums.testing_table()
    assert found.table.targets.tolist() == table.targets.tolist()
    errors = (found.predictions["winner"][0] - table.targets).abs()
    assert len(found.worst.rows) == len(found.random.rows) == 24
    assert errors[found.worst.rows].min() >= errors.sort(descending=True).values[23]
    for shown in (found.worst, found.random):
        assert shown.counts.tolist() == table.lengths[shown.rows].tolist()
        ends = shown.counts.cumsum(0) - 1
        expected = found.predictions["winner"][0, shown.rows]
        assert torch.equal(shown.running[ends], expected), "the last one is for the whole"
    first = table.indices[found.random.rows[0], : found.random.counts[0]].long()
    assert torch.equal(found.random.pixels[: len(first)], sums.images[first])
    picture = pictures(found.random, found)[0]
    assert picture.title.startswith(f"true {table.targets[found.random.rows[0]]:.0f}, predicted ")
    assert len(picture.strips[0].values) == len(first)


def test_sheets_can_be_read(reported: RunFolder, own_reported: RunFolder) -> None:
    for run in (reported, own_reported):
        for name in ("worst.png", "random.png"):
            with Image.open(run.plots / name) as sheet:
                assert np.asarray(sheet).std() > 0
                assert sheet.height == 24 * 62


def test_long_sequences_and_large_images_are_thinned_out(own: OwnSequences) -> None:
    class Large:
        info = own.info.__class__(**{**vars(own.info), "shape": (3, 200, 100)})
        images = torch.zeros(5, 3, 200, 100, dtype=torch.uint8)

    table = SequenceTable(
        torch.zeros(1, 100, dtype=torch.int32), torch.tensor([100]), torch.ones(1)
    )
    task: Any = Large()
    shape = type(own.info.shape)(3, 200, 100)
    object.__setattr__(task.info, "shape", shape)
    shown = scored._shown(torch.tensor([0]), torch.rand(1, 100), task, table)
    assert (shown.counts.tolist(), shown.steps[[0, -1]].tolist()) == ([16], [0, 99])
    assert shown.pixels.shape == (16, 3, 40, 20)


def test_longer_sequences_are_of_test_images(
    sums: MnistSums, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "LONGER_SEQUENCES", 3)
    table = tables.longer_table(sums.digits.labels, 8)
    lengths = [9, 10, 11, 12, 13, 14, 15, 16, 24, 32]
    assert table.lengths.tolist() == [length for length in lengths for _ in range(3)]
    real = torch.arange(32) < table.lengths[:, None]
    assert int(table.indices[real].min()) >= TRAINING_IMAGES
    assert not table.indices[~real].any()
    digits = sums.digits.labels[table.indices.long()].float() * real
    assert torch.equal(digits.sum(1), table.targets)


def test_own_data_have_no_longer_sequences_and_no_steps(own_written: Any) -> None:
    assert own_written["longer"] is None
    assert own_written["steps"] is None
