"""The report's plots."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from crnn_search.results import plots
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import TrialRecord
from tests.results.result_files import record


def test_plots_have_a_readable_size(reported: RunFolder) -> None:
    for name in ("learning_curves.png", "rmse_by_length.png"):
        content = (reported.plots / name).read_bytes()
        assert content.startswith(b"\x89PNG\r\n")
        width, height = struct.unpack(">II", content[16:24])
        assert (width, height) == (975, 572)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is saved."""
    figures: list[Figure] = []
    save = plots._save

    def keep(figure: Figure, path: Path) -> None:
        figures.append(figure)
        save(figure, path)

    monkeypatch.setattr(plots, "_save", keep)
    return figures


def learning_curves(
    drawn: list[Figure], path: Path, trials: list[TrialRecord], winner: int
) -> Axes:
    plots.learning_curves(path, trials, winner=winner, epochs=3, ceiling=20.0)
    return drawn[-1].axes[0]


def heights(line: Line2D) -> list[float]:
    return [float(value) for value in np.asarray(line.get_ydata())]


def test_learning_curves_without_values(drawn: list[Figure], tmp_path: Path) -> None:
    trials = [record(0, "FAIL", []), record(1, "FAIL", [None])]
    axes = learning_curves(drawn, tmp_path / "plots" / "none.png", trials, winner=9)
    assert (tmp_path / "plots" / "none.png").is_file()
    assert axes.get_lines() == []


def test_learning_curves_show_values_of_zero(drawn: list[Figure], tmp_path: Path) -> None:
    trials = [record(0, "COMPLETE", [4.0, 0.0, 0.0]), record(1, "FAIL", [2.0, None, 1.0])]
    axes = learning_curves(drawn, tmp_path / "zero.png", trials, winner=9)
    failed, completed = axes.get_lines()  # drawn in this order
    low = axes.get_ylim()[0]
    assert low == pytest.approx(0.85)
    assert heights(completed) == [4.0, low, low]
    assert completed.get_markevery() == [2]
    assert math.isnan(heights(failed)[1])
    assert failed.get_markevery() == [2]


def test_learning_curves_of_zeros_alone(drawn: list[Figure], tmp_path: Path) -> None:
    axes = learning_curves(drawn, tmp_path / "zero.png", [record(0, "COMPLETE", [0.0])], winner=0)
    low, high = axes.get_ylim()
    assert [heights(line) for line in axes.get_lines()] == [[low]] * 2
    assert 0 < low < high


def test_learning_curves_are_clipped_at_the_ceiling(drawn: list[Figure], tmp_path: Path) -> None:
    trials = [record(0, "COMPLETE", [400.0, 2.0])]
    axes = learning_curves(drawn, tmp_path / "high.png", trials, winner=0)
    assert [text.get_text() for text in axes.texts] == ["clipped here: values up to 400"]
    assert axes.get_ylim() == pytest.approx((1.7, 26.0))
    ceiling, curve, winner = axes.get_lines()
    assert heights(ceiling) == [20.0, 20.0]
    assert heights(curve) == heights(winner) == [20.0, 2.0]


def test_rmse_by_length_shows_values_of_zero(drawn: list[Figure], tmp_path: Path) -> None:
    score = {
        "rmse_by_length": {"1": 0.0, "2": 0.5},
        "rmse_interval_by_length": {"1": None, "2": [0.4, 0.6]},
    }
    plots.rmse_by_length(tmp_path / "length.png", {"winner": score})
    low, high = drawn[-1].axes[0].get_ylim()
    assert 0 < low < 0.4 < 0.6 < high < 1
