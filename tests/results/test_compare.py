"""Runs side by side."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from crnn_search.results import compare, scored
from crnn_search.results.compare import Comparison, compare_runs
from crnn_search.storage.files import read_json, write_json
from crnn_search.storage.run_folder import RunFolder
from tests.results.result_files import change


@pytest.fixture
def other(reported: RunFolder, tmp_path: Path) -> RunFolder:
    """A run with another space and winner, on the same test sequences."""
    run = RunFolder(tmp_path / "other")
    shutil.copytree(reported.root, run.root)
    run.space.write_text(run.space.read_text().replace("[32, 64, 128]", "[32, 64]"))
    change(run.best, number=5)
    return run


def parts(comparison: Comparison) -> dict[str, compare.Part]:
    return {part.title: part for part in comparison.parts}


def test_what_differs_is_shown_and_winners_are_paired(
    reported: RunFolder, other: RunFolder, tmp_path: Path
) -> None:
    comparison = compare_runs([reported, other], [1.2, 0.001])
    found = parts(comparison)
    assert [row[0] for row in found["The runs"].rows] == ["night", "other"]
    assert found["What differs"].rows == [
        ["space.batch_size", "{choice: [32, 64, 128]}", "{choice: [32, 64]}"]
    ]
    (reached, never) = found["Trials to an RMSE"].rows
    assert reached[0] == "1.20"
    assert reached[1] == reached[2] != "never"
    assert never[1:] == ["never", "never"]
    ((name, difference, interval, ratio),) = found["Winners on the same test sequences"].rows
    assert (name, difference, ratio) == ("other", "0.00", "1.000")
    assert interval.startswith("-"), "the spread of the seeds is in it"
    page = tmp_path / "page.html"
    compare.write_page(comparison, page)
    assert "incumbents-trials" in page.read_text()


def test_runs_of_one_name_are_told_apart(reported: RunFolder) -> None:
    rows = parts(compare_runs([reported, reported]))["The runs"].rows
    assert [row[0] for row in rows] == [str(reported.root)] * 2


def test_runs_of_other_tasks_are_not_compared(reported: RunFolder, own_reported: RunFolder) -> None:
    found = parts(compare_runs([reported, own_reported]))
    assert found["Trials to an RMSE"].note.startswith("Left out: the runs have different tasks")
    (row,) = found["Winners on the same test sequences"].rows
    assert row[1] == "other test sequences"


def test_budgets_that_differ_and_unfinished_runs(reported: RunFolder, other: RunFolder) -> None:
    manifest = read_json(other.manifest)
    manifest["space"]["search"]["max_epochs"] = 9
    write_json(other.manifest, manifest)
    other.stages.unlink()
    found = parts(compare_runs([reported, other]))
    assert found["Trials to an RMSE"].note == (
        "Left out: the full budget of a trial is not the same."
    )
    assert ["search.max_epochs", "3", "9"] in list(map(list, found["What differs"].rows))
    assert found["Winners on the same test sequences"].note.startswith("Left out: fewer than two")
    first, second = found["The runs"].rows
    assert float(first[-1]) == float(f"{read_json(reported.report_json)['ensemble']['rmse']:.3g}")
    assert second[-3:] == ["not finished", "–", "–"]
    assert scored.read(reported)
