"""data check and data example."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from crnn_search.cli import terminal
from crnn_search.cli.data import progress_bar
from tests.cli.conftest import CommandLine
from tests.data.folders import HEADER, clips, write_metadata


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Six sequences of two grey images of 8 × 8."""
    monkeypatch.setenv("CRNN_SEARCH_CACHE", str(tmp_path / "cache"))
    clips(tmp_path / "clips")
    return tmp_path / "clips"


def test_check_prints_what_is_found(crnn_search: CommandLine, folder: Path) -> None:
    done = crnn_search("data", "check", str(folder))
    assert (done.code, done.err) == (0, "")
    assert done.out == (
        f"{folder} is valid.\n"
        "sequences:  6\n"
        "images:     12, 12 of them distinct\n"
        "lengths:    2 to 2, median 2\n"
        "size:       8 × 8\n"
        "channels:   1, grey\n"
        "count:      0 to 5, mean 2.5 ± 1.708\n"
        "splits:     4 train, 1 validation, 1 test; drawn by sequence\n"
    )


def test_check_takes_a_target_and_a_format(crnn_search: CommandLine, folder: Path) -> None:
    rows = [[*row, 10 - int(str(row[2]))] for row in clips(folder)]
    write_metadata(folder, (*HEADER, "weight"), rows)
    assert crnn_search("data", "check", str(folder)).code == 2
    options = ("--target", "weight", "--size", "10", "12", "--channels", "3")
    done = crnn_search("data", "check", str(folder), *options)
    assert "weight:     5 to 10, mean 7.5 ± 1.708\n" in done.out
    assert "size:       10 × 12; 12 had another size and were resized" in done.out
    assert "channels:   3, colour; 12 were grey\n" in done.out


def test_check_warns_of_sequences_that_splits_share(crnn_search: CommandLine, folder: Path) -> None:
    rows = [["0.png", name, name] for name in range(12)]
    write_metadata(folder, HEADER, rows)
    done = crnn_search("data", "check", str(folder))
    assert done.code == 0
    assert done.out.endswith(
        "warning: 1 image is in more than one split: scores may be too good\n"
        "warning: 1 sequence is in more than one split: scores may be too good\n"
    )


def test_check_reports_problems(crnn_search: CommandLine, folder: Path) -> None:
    (folder / "3.png").unlink()
    done = crnn_search("data", "check", str(folder))
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"error: {folder} has a problem:\n"
        "  metadata.csv, row 5: 3.png cannot be read: No such file or directory\n"
    )


def test_check_reads_arrays(crnn_search: CommandLine, folder: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 4, 8, 8), dtype=np.uint8)
    np.savez(folder / "a.npz", images=images, targets=np.arange(9))
    done = crnn_search("data", "check", str(folder / "a.npz"))
    assert "images:     36, 36 of them distinct\n" in done.out
    assert crnn_search("data", "check", str(folder / "none.npz")).code == 2


def test_check_draws_a_contact_sheet(crnn_search: CommandLine, folder: Path) -> None:
    sheet = folder / "sheet.png"
    assert crnn_search("data", "check", str(folder), "--contact-sheet", str(sheet)).code == 0
    with Image.open(sheet) as picture:
        assert picture.format == "PNG"
    nowhere = str(folder / "none" / "sheet.png")
    done = crnn_search("data", "check", str(folder), "--contact-sheet", nowhere)
    assert done.code == 1
    assert done.err == f"error: cannot write {nowhere}: No such file or directory\n"


@pytest.mark.parametrize("columns", [40, 80])
def test_progress_is_a_bar_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    for is_terminal in (True, False):
        file = io.StringIO()
        console = Console(file=file, force_terminal=is_terminal, width=columns)
        monkeypatch.setattr(terminal, "lasting_console", lambda console=console: console)
        with progress_bar() as progress:
            for done in range(0, 1001, 250):
                progress("decoding images", done, 1000)
        assert ("decoding images" in file.getvalue()) == is_terminal


def test_example_is_written_and_can_be_checked(
    crnn_search: CommandLine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (600, 28, 28), dtype=np.uint8)
    monkeypatch.setattr(
        "crnn_search.data.example._mnist", lambda data_dir: (images, np.arange(600) % 10)
    )
    new = folder / "example"
    done = crnn_search("data", "example", str(new), "--coloured", "--sequences", "100")
    assert (done.code, done.err) == (0, "")
    assert done.out == (
        f"{new} has 100 sequences. Look at them, then search:\n"
        f"  crnn-search data check {new} --contact-sheet sheet.png\n"
        f"  crnn-search launch {new}/space.yaml\n"
    )
    assert "channels:   3, colour\n" in crnn_search("data", "check", str(new)).out
    done = crnn_search("data", "example", str(new))
    assert done.code == 2
    assert done.err == f"error: {new} must be a new or an empty folder\n"


@pytest.mark.parametrize("command", ["check", "example"])
def test_help_fits_80_columns(crnn_search: CommandLine, command: str) -> None:
    done = crnn_search("data", command, "--help")
    assert done.code == 0
    assert [line for line in done.out.splitlines() if len(line) > 80] == []
