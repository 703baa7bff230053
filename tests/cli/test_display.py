"""The live view and the plain lines of a running stage."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pytest
from rich.console import Console

from crnn_search import signals
from crnn_search.cli import terminal
from crnn_search.cli.display import LiveProgress, PlainProgress, show_on
from crnn_search.hyperparameters import MNIST_CRNN_2016, TrialConfig
from crnn_search.storage.trial import Trial, TrialRecord, TrialState
from crnn_search.tuning.progress import Stage, TimeRange

EPOCHS = 3
SEARCHED = ("conv_channels", "learning_rate", "gru_sizes")
COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL


def record(name: str, *rmse: float | None, **known: Any) -> TrialRecord:
    """A trial with a validation RMSE for each of its epochs."""
    values = {"conv_channels": [16, 32, 64], "learning_rate": 0.0123456}
    config = TrialConfig.from_dict(MNIST_CRNN_2016.to_dict() | values)
    trial = Trial(name, 0, config, 0, EPOCHS, 1, 600, "mnist_sums/8")
    train_loss = known.pop("train_loss", [4.0] * len(rmse))
    return TrialRecord(trial, list(rmse), train_loss, core_seconds=10.0 * len(rmse), **known)


class Trials:
    """The records of a stage, and a display that hears what happens to them."""

    def __init__(self, progress: LiveProgress | PlainProgress) -> None:
        self.progress, self.records = progress, {"search": dict[str, TrialRecord]()}

    def begin(self, trials: int, *known: TrialRecord, **more: Any) -> None:
        self.records["search"] |= {record.trial.name: record for record in known}
        arguments = {"name": "search", "title": "search", "searched": SEARCHED} | more
        self.progress.stage(
            Stage(trials=trials, epochs=EPOCHS, epoch_sequences=600, records=self.records,
                  **arguments)
        )  # fmt: skip

    def train(self, name: str, *rmse: float | None, **known: Any) -> TrialRecord:
        """A trial starts and trains."""
        self.records["search"][name] = found = record(name, *rmse, **known)
        self.progress.started(name)
        for _ in rmse:
            self.progress.epoch(name)
        return found

    def end(self, name: str, state: TrialState, *rmse: float | None, **known: Any) -> None:
        """A trial starts, trains and ends."""
        found = self.train(name, *rmse, **known)
        found.state = state
        self.progress.ended(name)


@pytest.fixture
def plain() -> Trials:
    return Trials(PlainProgress(terminal.console(io.StringIO())))


def lines(trials: Trials) -> list[str]:
    file = trials.progress.console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue().splitlines()


def live(width: int, height: int) -> Trials:
    """A live view that is not drawn by itself."""
    console = Console(
        file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None,
        markup=False, emoji=False, highlight=False,
    )  # fmt: skip
    progress = LiveProgress(console, "demo")
    progress.close()
    return Trials(progress)


def drawn(trials: Trials) -> list[str]:
    """The view as it is now."""
    console = trials.progress.console
    assert isinstance(trials.progress, LiveProgress)
    with console.capture() as captured:
        console.print(trials.progress._render())
    found = [line.rstrip() for line in captured.get().splitlines()]
    assert max(map(len, found)) <= console.width
    assert len(found) < console.height or console.height < 9
    return found


def fill(trials: Trials, stopped: int = 30, **more: Any) -> None:
    """A search in its middle."""
    trials.begin(64, **more)
    trials.end("trial-0000", COMPLETE, 5.0, 4.0, 3.0)
    trials.end("trial-0001", COMPLETE, 5.0, 4.0, 2.5)
    for number in range(stopped):
        trials.end(f"trial-{number + 10:04d}", PRUNED, 9.0 - number / 10)
    trials.end("trial-0002", PRUNED, 5.0, 6.0)
    trials.end("trial-0003", PRUNED, 4.0, reason="time budget of 2 h is used up")
    trials.end("trial-0004", FAIL, None, reason="diverged: training loss nan", train_loss=[None])
    trials.train("trial-0005", 4.5)
    trials.train("trial-0006")
    trials.train("trial-0007", 5.5)
    trials.records["search"]["trial-0008"] = record("trial-0008", 3.5)
    trials.progress.within({"trial-0005": 1.25, "trial-0006": 0.5, "trial-0007": 2.0})


def test_the_view_at_80_by_24() -> None:
    trials = live(80, 24)
    fill(trials, time_left=lambda _: TimeRange(7300.0, 13_000.0))
    found = drawn(trials)
    assert len(found) == 23
    assert found[0] == "demo · search · 0 s · whole run: 2.0 to 3.6 h left"
    assert found[1] == ("35 of 64 trials ended: 2 completed, 31 stopped early, 1 cut, 1 failed")
    assert found[2] == "3 running, 1 waiting"
    assert found[3] == "core time 7 min 10 s · early stopping saved 62% of the epochs"
    assert [line.split() for line in found[5:13]] == [
        ["validation", "train"],
        ["trial", "state", "epochs", "RMSE", "RMSE", "conv_channels", "gru_sizes"],
        ["trial-0001", "best", "3/3", "2.500", "2.000", "16-32-64", "100-50"],
        ["trial-0005", "running", "25%", "1/3", "4.500", "2.000", "16-32-64", "100-50"],
        ["trial-0007", "validating", "1/3", "5.500", "2.000", "16-32-64", "100-50"],
        ["trial-0006", "running", "50%", "0/3", "16-32-64", "100-50"],
        ["trial-0008", "waiting", "1/3", "3.500", "2.000", "16-32-64", "100-50"],
        ["trial-0000", "completed", "3/3", "3.000", "2.000", "16-32-64", "100-50"],
    ]
    assert found[13].split()[:3] == ["trial-0002", "stopped", "early"]
    assert found[14].split()[:4] == ["trial-0039", "stopped", "early", "1/3"]
    assert found[-1] == "… and 24 more: 22 stopped early, 1 cut, 1 failed"


def test_the_view_at_140_by_40_has_more_trials_and_hyperparameters() -> None:
    trials = live(140, 40)
    fill(trials)
    found = drawn(trials)
    assert len(found) == 39
    assert found[1].endswith("1 failed · 3 running, 1 waiting")
    assert found[5].split()[-3:] == list(SEARCHED)
    assert found[6].split()[-1] == "100-50"
    assert found[-1] == "… and 7 more: 5 stopped early, 1 cut, 1 failed"


@pytest.mark.parametrize(("width", "height"), [(40, 12), (20, 8), (10, 4), (80, 3), (300, 100)])
def test_the_view_fits_small_and_large_terminals(width: int, height: int) -> None:
    trials = live(width, height)
    fill(trials)
    found = drawn(trials)
    assert found[0].startswith("demo")
    if width >= 40 and height > 8:
        assert any(line.startswith("tria") for line in found[2:])


def test_a_view_has_room_for_few_trials() -> None:
    trials = live(80, 24)
    fill(trials, stopped=0)
    found = drawn(trials)
    assert [line.split()[0] for line in found[-3:]] == ["trial-0002", "trial-0003", "trial-0004"]
    assert "cut" in found[-2]
    assert "failed" in found[-1]


def test_the_view_says_what_the_run_does_before_and_after_its_trials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trials = live(80, 24)
    assert drawn(trials) == ["demo · starting · 0 s"]
    trials.progress.doing("starting Ray")
    assert drawn(trials) == ["demo · starting Ray · 0 s"]
    trials.progress.reading("checking images", 250, 1000)
    assert drawn(trials) == ["demo · checking images: 250 of 1,000 · 0 s"]
    trials.begin(5, record("trial-0001", 5.0), origin="resumed")
    assert drawn(trials)[0] == "demo · search, resumed · 0 s"
    assert drawn(trials)[1] == "0 of 5 trials ended · 1 waiting"
    trials.progress.started("trial-0001")
    monkeypatch.setattr(signals, "asked_to_stop", lambda: True)
    assert drawn(trials)[0] == "demo · stopping: waiting for 1 trial · 0 s"
    trials.progress.doing("report: scoring")
    assert drawn(trials) == ["demo · stopping · 0 s"]


def test_a_retraining_has_no_validation() -> None:
    trials = live(80, 24)
    found = record("a-retrained-0", train_loss=[16.0, 9.0])
    object.__setattr__(found.trial, "all_images", True)
    trials.records["retrain"] = {"a-retrained-0": found}
    trials.begin(2, name="retrain", title="retraining", searched=())
    assert [line.split() for line in drawn(trials)[-3:]] == [
        ["train"],
        ["trial", "state", "epochs", "RMSE"],
        ["a-retrained-0", "waiting", "2/3", "3.000"],
    ]


@pytest.mark.parametrize("no_color", [False, True])
def test_on_a_terminal_there_is_one_view_and_lines_that_stay(
    monkeypatch: pytest.MonkeyPatch, no_color: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    output = io.StringIO()
    progress = show_on(
        Console(file=output, width=120, height=30, force_terminal=True, color_system="standard",
                markup=False, highlight=False),
        "demo",
    )  # fmt: skip
    assert isinstance(progress, LiveProgress)
    trials = Trials(progress)
    try:
        fill(trials, stopped=2)
        progress._live.refresh()
        progress.note("a note")
    finally:
        progress.close()
    shown = output.getvalue()
    assert "trial-0004 failed after epoch 1 · diverged: training loss nan" in shown
    assert "a note" in shown
    assert ("\x1b[31m" in shown) is not no_color
    assert shown.rpartition("search: ")[2].startswith("7/64 · 2 completed, 3 stopped early, 1 cut")
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "the cursor is shown again"


@pytest.mark.parametrize("variables", [{"TERM": "dumb", "TTY_COMPATIBLE": "1"}, {}])
def test_without_a_terminal_each_trial_is_a_line(
    monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    progress = show_on(terminal.console(io.StringIO()), "demo")
    assert isinstance(progress, PlainProgress)
    trials = Trials(progress)
    progress.doing("starting Ray")
    trials.begin(3, time_left=lambda _: TimeRange(None, 100.0))
    trials.end("a", COMPLETE, 5.0, 4.0, 3.0)
    trials.end("b", PRUNED, 6.0)
    trials.end("c", COMPLETE, 3.0, 2.5, 2.5)
    doing, first, *ended = lines(trials)
    assert doing == "starting Ray"
    assert first == "search: 3 trials of up to 3 epochs"
    assert len(ended) == 3
    assert ended[0].startswith(
        "a completed after epoch 3 · validation RMSE 3.000, train RMSE 2.000 · search: 1/3 · "
        "1 completed · best 3.000 (a) · 0 s · whole run: at most 2 min left"
    )
    assert ended[1].startswith("b stopped early after epoch 1")
    assert "search: 3/3 · 2 completed, 1 stopped early · best 2.500 (c)" in ended[2]


def test_reading_of_data_is_a_line_without_a_terminal(plain: Trials) -> None:
    for what in ("checking images", "decoding images"):
        for done in range(0, 1001, 250):
            plain.progress.reading(what, done, 1000)
    assert lines(plain) == ["checking images: 1,000", "decoding images: 1,000"]


def test_failed_and_cut_trials_show_the_reason(plain: Trials) -> None:
    plain.begin(2)
    plain.end("a", FAIL, None, reason="diverged: training loss nan", train_loss=[49.0])
    plain.end("b", PRUNED, 4.0, reason="time budget of 2 h is used up")
    assert "a failed after epoch 1 · train RMSE 7.000 · diverged: training" in lines(plain)[-2]
    cut = "b cut after epoch 1 · validation RMSE 4.000, train RMSE 2.000 · time budget of 2 h is "
    assert lines(plain)[-1].startswith(cut)
    assert "2/2 · 1 cut, 1 failed" in lines(plain)[-1]


def test_best_trial_has_the_full_budget(plain: Trials) -> None:
    plain.begin(2)
    plain.end("short", PRUNED, 0.1)
    assert "best" not in lines(plain)[-1]
    plain.end("full", COMPLETE, 2.0, 1.0, 0.9)
    assert "best 0.900 (full)" in lines(plain)[-1]


def test_rmse_of_zero_is_the_best(plain: Trials) -> None:
    plain.begin(2)
    plain.end("a", COMPLETE, 0.0, 0.0, 0.0)
    plain.end("b", COMPLETE, 0.5, 0.5, 0.5)
    assert "best 0.000 (a)" in lines(plain)[-1]


def test_trials_of_earlier_sessions_count(plain: Trials) -> None:
    ended = record("a", 3.0, 2.0, 1.0, state=COMPLETE)
    plain.begin(3, ended, record("b", 1.5), origin="extended to 3 trials")
    expected = "search, extended to 3 trials: 3 trials of up to 3 epochs, 1 ended before"
    assert lines(plain) == [expected]
    plain.end("b", COMPLETE, 1.5, 1.0, 0.5)
    assert "search: 2/3 · 2 completed · best 0.500 (b)" in lines(plain)[-1]


def test_the_request_to_stop_is_a_line(plain: Trials) -> None:
    plain.progress.stopping()
    plain.begin(3)
    for name in ("a", "b"):
        plain.train(name)
    plain.progress.stopping()
    assert lines(plain)[0] == "stopping"
    assert lines(plain)[-1] == "stopping: waiting for 2 trials"


TEXT = "[/x] [bold] :smile: \x1b[31m \u202e"
SHOWN = r"[/x] [bold] :smile: \x1b[31m \u202e"


def test_no_text_is_markup_and_control_characters_are_escaped(plain: Trials) -> None:
    plain.begin(1, title=TEXT)
    plain.end(TEXT, FAIL, None, train_loss=[1.0], reason=f"{TEXT}\nTraceback")
    plain.progress.note(TEXT)
    first, ended, note = lines(plain)
    assert first == f"{SHOWN}: 1 trial of up to 3 epochs"
    assert ended.startswith(f"{SHOWN} failed after epoch 1 · train RMSE 1.000 · {SHOWN} · ")
    assert note == SHOWN


def test_no_text_of_the_view_is_markup() -> None:
    trials = live(140, 24)
    trials.begin(1, title=TEXT)
    trials.train(TEXT, 1.0)
    assert sum(SHOWN in line for line in drawn(trials)) == 2


def test_a_long_reason_is_cut(plain: Trials) -> None:
    plain.begin(1)
    plain.end("a", FAIL, reason="x" * 10_000)
    assert "xxx… (10,000 characters) · search: 1/1" in lines(plain)[-1]
    assert len(lines(plain)[-1]) < 400
