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
    sizes = {
        "learning_curves.png": (975, 572), "rmse_by_length.png": (975, 572),
        "predicted.png": (728, 702),
    }  # fmt: skip
    for name, size in sizes.items():
        content = (reported.plots / name).read_bytes()
        assert content.startswith(b"\x89PNG\r\n")
        assert struct.unpack(">II", content[16:24]) == size


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


def test_rmse_by_length_cuts_wide_intervals(drawn: list[Figure], tmp_path: Path) -> None:
    score = {
        "rmse_by_length": {"1": 1.0, "2": 2.0},
        "rmse_interval_by_length": {"1": [0.001, 1000.0], "2": [1.5, 2.5]},
    }
    plots.rmse_by_length(tmp_path / "wide.png", {"winner": score})
    assert drawn[-1].axes[0].get_ylim() == pytest.approx((1 / 3, 6.0))


def labels(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_xticklabels()]


def test_rmse_by_length_of_bins(drawn: list[Figure], tmp_path: Path) -> None:
    score = {
        "rmse_by_length": {"1–5": 1.0, "6": 2.0, "7–90": 3.0},
        "rmse_interval_by_length": {"1–5": None, "6": [1.0, 4.0], "7–90": [2.0, 5.0]},
    }
    plots.rmse_by_length(tmp_path / "bins.png", {"winner": score}, "images", "test RMSE (mm)")
    axes = drawn[-1].axes[0]
    assert labels(axes) == ["1–5", "6", "7–90"]
    assert axes.get_xlabel() == "images in the sequence"
    assert axes.get_ylabel() == "test RMSE (mm) (log scale)"


@pytest.mark.parametrize(("digits", "shown"), [(8, 8), (12, 12), (13, 7), (64, 11)])
def test_rmse_of_many_lengths_has_room_for_its_labels(
    drawn: list[Figure], tmp_path: Path, digits: int, shown: int
) -> None:
    known = {str(n): 1.0 for n in range(1, digits + 1)}
    score = {"rmse_by_length": known, "rmse_interval_by_length": dict.fromkeys(known)}
    plots.rmse_by_length(tmp_path / "length.png", {"winner": score})
    assert len(labels(drawn[-1].axes[0])) == shown


def test_predicted_has_a_point_for_each_of_few_sequences(
    drawn: list[Figure], tmp_path: Path
) -> None:
    true, predicted = np.array([0.0, 10.0]), np.array([-4.0, 21.0])
    plots.predicted(tmp_path / "few.png", true, predicted, "height (mm)")
    axes = drawn[-1].axes[0]
    points = np.asarray(axes.collections[0].get_offsets())
    assert points.tolist() == [[0.0, -4.0], [10.0, 21.0]]
    assert axes.get_xlim() == axes.get_ylim() == pytest.approx((-5.0, 22.0))
    (line,) = axes.get_lines()
    assert heights(line) == np.asarray(line.get_xdata()).tolist()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("true height (mm)", "predicted height (mm)")


@pytest.mark.parametrize(("high", "side"), [(8, 1.0), (8.5, 0.156), (150, 2.7)])
def test_predicted_counts_many_sequences(
    drawn: list[Figure], tmp_path: Path, high: float, side: float
) -> None:
    """In cells of whole numbers, if targets are and have no large range."""
    true = (np.arange(2001) % 9 * (high / 8)).astype(np.float64)
    plots.predicted(tmp_path / "many.png", true, true + 0.2, "count")
    cells = drawn[-1].axes[0].collections[0]
    counts = np.asarray(cells.get_array())
    assert np.nansum(counts) == 2001
    corners = cells.get_coordinates()  # type: ignore[attr-defined]
    assert corners[0, 1, 0] - corners[0, 0, 0] == pytest.approx(side, rel=0.01)
    if side == 1:
        assert sorted(counts[counts > 0].tolist()) == [222.0] * 6 + [223.0] * 3
        assert corners[0, 0, 0] % 1 == 0.5


@pytest.mark.parametrize("value", [0.0, 3.0, -7.0, 1e30])
@pytest.mark.parametrize("count", [1, 2001])
def test_predicted_shows_equal_values(tmp_path: Path, value: float, count: int) -> None:
    values = np.full(count, value)
    plots.predicted(tmp_path / "equal.png", values, values, "count")
    assert (tmp_path / "equal.png").is_file()


@pytest.mark.parametrize("name", ["$x", "$\\frac{a$", "数量", "a_b^c", "%s {x}", ""])
def test_no_name_of_a_target_is_markup(drawn: list[Figure], tmp_path: Path, name: str) -> None:
    values = np.array([1.0, 2.0])
    plots.predicted(tmp_path / "odd.png", values, values, name)
    assert drawn[-1].axes[0].get_xlabel() == f"true {name}"
    trials = [record(0, "COMPLETE", [4.0])]
    plots.learning_curves(
        tmp_path / "odd.png", trials, winner=0, epochs=1, ceiling=9.0, rmse=f"RMSE ({name})"
    )
