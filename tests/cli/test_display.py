"""The live table and the plain lines of a running stage."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from crnn_search.cli import terminal
from crnn_search.cli.display import LiveProgress, PlainProgress, show_on
from crnn_search.hyperparameters import MNIST_CRNN_2016
from crnn_search.storage.trial import Trial, TrialRecord, TrialState


def record(name: str, **known: Any) -> TrialRecord:
    trial = Trial(
        name,
        0,
        MNIST_CRNN_2016,
        0,
        epochs=2,
        grace_epochs=1,
        epoch_sequences=1,
        data="mnist_sums/8",
    )
    return TrialRecord(trial, **known)


def play(progress: LiveProgress | PlainProgress) -> None:
    progress.stage("search", trials=3, epochs=2)
    for name, rmses in (("a", [5.0, 4.0]), ("b", [6.0]), ("c", [3.0, 2.5])):
        progress.started(name)
        for epoch, rmse in enumerate(rmses, start=1):
            progress.epoch(name, epoch, rmse, 1.5)
        progress.ended(name, TrialState.COMPLETE if len(rmses) == 2 else TrialState.PRUNED, None)
    progress.close()


@pytest.fixture
def plain() -> PlainProgress:
    return PlainProgress(terminal.console(io.StringIO()))


def lines(progress: PlainProgress) -> list[str]:
    file = progress.console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue().splitlines()


def test_without_a_terminal_each_trial_is_a_line() -> None:
    progress = show_on(terminal.console(io.StringIO()))
    assert isinstance(progress, PlainProgress)
    play(progress)
    first, *trials = lines(progress)
    assert first == "search: 3 trials of up to 2 epochs"
    assert len(trials) == 3
    assert trials[0].startswith("a completed after epoch 2 · validation RMSE 4.000")
    assert trials[1].startswith("b stopped early after epoch 1")
    assert "best 2.500 (c)" in trials[2]
    assert "2 completed, 1 stopped early" in trials[2]


def test_on_a_terminal_there_is_one_table() -> None:
    output = io.StringIO()
    progress = show_on(Console(file=output, width=120, force_terminal=True))
    assert isinstance(progress, LiveProgress)
    play(progress)
    last = output.getvalue().rpartition("search:")[2]
    assert "3/3" in last
    for name in ("a", "b", "c"):
        assert f"{name} " in last
    assert "stopped early" in last


def read(progress: LiveProgress | PlainProgress) -> None:
    for what in ("checking images", "decoding images"):
        for done in range(0, 1001, 250):
            progress.reading(what, done, 1000)


def test_reading_of_data_is_a_line_without_a_terminal(plain: PlainProgress) -> None:
    read(plain)
    assert lines(plain) == ["checking images: 1,000", "decoding images: 1,000"]


@pytest.mark.parametrize("ended_by", ["note", "stage", "close"])
def test_reading_of_data_is_a_bar_on_a_terminal(ended_by: str) -> None:
    output = io.StringIO()
    progress = LiveProgress(Console(file=output, width=120, force_terminal=True))
    for _ in range(2):  # its bars are those of one reading
        read(progress)
        assert progress._bar is not None
        if ended_by == "note":
            progress.note("data: clips")
        elif ended_by == "stage":
            progress.stage("search", trials=3, epochs=2)
        else:
            progress.close()
        assert progress._bar is None
    progress.close()
    assert "decoding images" in output.getvalue()
    assert "1000/1000" in output.getvalue()


def test_failed_trial_shows_its_reason(plain: PlainProgress) -> None:
    plain.stage("search", trials=1, epochs=2)
    plain.epoch("a", 1, None, 7.0)
    plain.ended("a", TrialState.FAIL, "diverged: training loss nan")
    assert "a failed after epoch 1 · training loss 7.000 · diverged" in lines(plain)[-1]


def test_best_trial_has_the_full_budget(plain: PlainProgress) -> None:
    plain.stage("search", trials=2, epochs=2)
    plain.epoch("short", 1, 0.1, 1.0)
    plain.ended("short", TrialState.PRUNED, None)
    plain.epoch("full", 2, 0.9, 1.0)
    plain.ended("full", TrialState.COMPLETE, None)
    assert "best 0.900 (full)" in lines(plain)[-1]


def test_rmse_of_zero_is_the_best(plain: PlainProgress) -> None:
    plain.stage("search", trials=2, epochs=1)
    for name, rmse in (("a", 0.0), ("b", 0.5)):
        plain.epoch(name, 1, rmse, 0.0)
        plain.ended(name, TrialState.COMPLETE, None)
    assert "b completed after epoch 1 · validation RMSE 0.500" in lines(plain)[-1]
    assert "best 0.000 (a)" in lines(plain)[-1]


def test_trials_of_earlier_sessions_count(plain: PlainProgress) -> None:
    ended = record(
        "a", validation_rmse=[2.0, 1.0], train_loss=[3.0, 2.0], state=TrialState.COMPLETE
    )
    waiting = record("b", validation_rmse=[1.5], train_loss=[3.0])
    plain.stage("search", trials=3, epochs=2, known=[ended, waiting])
    plain.started("b")
    plain.epoch("b", 2, 0.5, 1.0)
    plain.ended("b", TrialState.COMPLETE, None)
    assert "search: 2/3 · 2 completed · best 0.500 (b)" in lines(plain)[-1]


def test_brackets_are_shown_as_they_are(plain: PlainProgress) -> None:
    plain.note("s3://bucket/[a]: [Errno 28] No space left")
    assert lines(plain) == ["s3://bucket/[a]: [Errno 28] No space left"]


TEXT = "[/x] [bold] :smile: \x1b[31m \u202e"
SHOWN = r"[/x] [bold] :smile: \x1b[31m \u202e"


def test_no_text_is_markup_and_control_characters_are_escaped(plain: PlainProgress) -> None:
    plain.stage(TEXT, trials=1, epochs=1)
    plain.epoch(TEXT, 1, None, 1.0)
    plain.ended(TEXT, TrialState.FAIL, f"{TEXT}\nTraceback")
    plain.note(TEXT)
    first, ended, note = lines(plain)
    assert first == f"{SHOWN}: 1 trials of up to 1 epochs"
    assert ended.startswith(f"{SHOWN} failed after epoch 1 · training loss 1.000 · {SHOWN} · ")
    assert note == SHOWN


def test_no_text_of_the_table_is_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    output = io.StringIO()
    progress = LiveProgress(terminal.console(output))
    progress.stage(TEXT, trials=1, epochs=1)
    progress.epoch(TEXT, 1, 1.0, 1.0)
    progress.note(TEXT)
    progress.ended(TEXT, TrialState.FAIL, TEXT)
    progress.close()
    assert output.getvalue().count(SHOWN) >= 3


def test_a_long_reason_is_cut(plain: PlainProgress) -> None:
    plain.stage("search", trials=1, epochs=1)
    plain.ended("a", TrialState.FAIL, "x" * 10_000)
    assert "xxx… (10,000 characters) · search: 1/1" in lines(plain)[-1]
    assert len(lines(plain)[-1]) < 400
