"""`trials`: the table of a run's trials, sorted, filtered, as JSON and CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from pathlib import Path

import pytest

from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import InfeasibleTrial
from tests.cli.conftest import CommandLine
from tests.results.result_files import SMALL, Writer, record

SPACE = """
search: {trials: 8, max_epochs: 3, grace_epochs: 1, epoch_sequences: 500}
space:
  conv_channels: {list_of: {int: [4, 9]}, length: [1, 2]}
  learning_rate: {float: [0.001, 0.1]}
"""
BEST_FIRST = [5, 0, 6, 4, 1, 7, 2, 3]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with trials in all states; the best RMSE is that of a trial that was stopped."""
    run = RunFolder(tmp_path)
    run.space.write_text(SPACE)
    writer = Writer(run)
    writer.end(0, "COMPLETE", 4.0, 3.0, 2.0)
    writer.end(1, "PRUNED", 0.5)
    writer.end(2, "FAIL", 7.0, None)
    writer.journal.write_ended(InfeasibleTrial(3, SMALL.to_dict(), "no pixels are left"))
    writer.end(4, "PRUNED", 6.0, 5.0)
    writer.end(5, "COMPLETE", 4.0, 3.0, 1.5)
    writer.start(7, 2.5)
    reason = "time budget of 2 h is used up"
    writer.journal.write_ended(dataclasses.replace(record(7, "PRUNED", [2.5]), reason=reason))
    writer.start(6, 5.0, 4.0)
    return run


def numbers(out: str) -> list[int]:
    return [row["number"] for row in json.loads(out)]


def test_trials_are_sorted_and_filtered(crnn_search: CommandLine, run: RunFolder) -> None:
    def found(*words: str) -> list[int]:
        return numbers(crnn_search("trials", str(run.root), "--json", *words).out)

    assert found() == BEST_FIRST
    assert found("--sort", "validation_rmse") == BEST_FIRST, "0.5 is a value of one epoch"
    assert found("--sort", "number") == sorted(BEST_FIRST)
    assert found("--sort", "epochs")[-1] == 3, "it has none"
    assert found("--state", "completed", "--state", "cut") == [5, 0, 7]
    assert found("--state", "stopped") == [4, 1]
    assert found("--limit", "2") == [5, 0]
    done = crnn_search("trials", str(run.root), "--sort", "lunch")
    assert (done.code, done.out) == (2, "")
    assert "--sort must be one of rank, number, name, state," in done.err
    assert "got 'lunch'" in done.err
    done = crnn_search("trials", str(run.root), "--sort", "validation_rmse_by_epoch")
    assert (done.code, done.out) == (2, "")
    assert "--sort must be a column with one value for each trial, got validation_r" in done.err
    done = crnn_search("trials", str(run.root), "--json", "--csv")
    assert (done.code, "exclude each other" in done.err) == (2, True)


def test_the_table_has_all_columns_where_nothing_is_a_terminal(
    crnn_search: CommandLine, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "10000")
    lines = crnn_search("trials", str(run.root)).out.splitlines()
    assert lines[0].split() == [
        "trial", "state", "epochs", "validation", "RMSE", "train", "RMSE", "GPU", "time",
        "conv_channels", "learning_rate", "reason",
    ]  # fmt: skip
    assert lines[1].split()[:7] == ["5", "completed", "3", "1.500", "1.225", "3", "s"]
    states = [line.split()[1] for line in lines[1:]]
    assert states == [
        "completed", "completed", "unfinished", "stopped", "stopped", "cut", "failed", "infeasible",
    ]  # fmt: skip
    assert lines[6].rstrip().endswith("time budget of 2 h is used up")


def test_a_narrow_terminal_has_the_first_columns(
    monkeypatch: pytest.MonkeyPatch, crnn_search: CommandLine, run: RunFolder
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    out = crnn_search("trials", str(run.root)).out
    lines = re.sub(r"\x1b\[[0-9;]*m", "", out).splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in out
    assert lines[-1] == "no room for learning_rate, reason; --csv and --json have all"


def test_csv_has_a_line_for_each_trial(crnn_search: CommandLine, run: RunFolder) -> None:
    done = crnn_search("trials", str(run.root), "--csv")
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert [int(row["number"]) for row in rows] == BEST_FIRST
    assert rows[0]["validation_rmse_by_epoch"] == "[4.0, 3.0, 1.5]"
    assert rows[0]["conv_channels"] == json.dumps(list(SMALL.model.conv_channels))
    assert rows[-1]["epochs"] == ""
    assert crnn_search("trials", str(run.root), "--csv", "--state", "cut").out.count("\n") == 2
