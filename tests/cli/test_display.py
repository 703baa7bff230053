from __future__ import annotations

import io

from rich.console import Console

from crnn_search.cli.display import LiveProgress, PlainProgress, show_on


def play(progress: LiveProgress | PlainProgress) -> None:
    progress.stage("search", jobs=3, epochs=2)
    for name, rmses in (("a", [5.0, 4.0]), ("b", [6.0]), ("c", [3.0, 2.5])):
        progress.started(name)
        for epoch, rmse in enumerate(rmses, start=1):
            progress.epoch(name, epoch, rmse, 1.5)
        progress.ended(name, "COMPLETE" if len(rmses) == 2 else "PRUNED", None)
    progress.close()


def test_without_a_terminal_each_job_is_a_plain_line() -> None:
    output = io.StringIO()
    progress = show_on(Console(file=output, width=40))
    assert isinstance(progress, PlainProgress)
    play(progress)
    lines = output.getvalue().splitlines()
    assert lines[0] == "search: 3 jobs of up to 2 epochs"
    assert len(lines) == 4
    assert lines[1].startswith("a completed after epoch 2 · validation RMSE 4.000")
    assert lines[2].startswith("b stopped early after epoch 1")
    assert "best 2.500 (c)" in lines[3]
    assert "2 completed, 1 stopped early" in lines[3]


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


def test_a_failure_tells_its_reason() -> None:
    output = io.StringIO()
    progress = PlainProgress(Console(file=output))
    progress.stage("search", jobs=1, epochs=2)
    progress.epoch("a", 1, None, 7.0)
    progress.ended("a", "FAIL", "diverged: training loss nan")
    assert "a failed after epoch 1 · training loss 7.000 · diverged" in output.getvalue()


def test_the_best_is_a_full_budget_job() -> None:
    output = io.StringIO()
    progress = PlainProgress(Console(file=output))
    progress.stage("search", jobs=2, epochs=2)
    progress.epoch("short", 1, 0.1, 1.0)
    progress.ended("short", "PRUNED", None)
    progress.epoch("full", 2, 0.9, 1.0)
    progress.ended("full", "COMPLETE", None)
    assert output.getvalue().splitlines()[-1].count("best 0.900 (full)") == 1
