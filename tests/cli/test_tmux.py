"""The live view in a real terminal."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from crnn_search.data.digits import Digits
from tests import held, small_run
from tests.waiting import wait

SPACE = small_run.SPACE.replace("reduction_factor: 2", "reduction_factor: 100").replace(
    "epoch_sequences: 256,\n", "epoch_sequences: 8000,\n", 1
)
"""So that no trial is stopped early before it is held, and that epochs take a while."""

PART = re.compile(r"trial-000\d  (running \d+%|validating)")

PROGRAM = f"from tests.small_run import one_core; one_core()\n{held.PROGRAM}{small_run.PROGRAM}"


CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A terminal in a tmux server of its own."""

    def __init__(self, folder: Path) -> None:
        self._written = folder / "written"
        self._environment = {**os.environ, "TMUX_TMPDIR": str(folder), "TERM": "xterm-256color"}
        self._environment.pop("TMUX", None)

    def tmux(self, *words: str) -> str:
        command = ["tmux", "-L", "test", "-f", "/dev/null", *words]
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout

    def run(self, columns: int, rows: int, root: Path, *words: str) -> None:
        """Run a program in a folder; then its exit code is shown."""
        values = {"PYTHONPATH": small_run.REPOSITORY, held.FOLDER: str(root)}
        variables = [f"{name}={shlex.quote(value)}" for name, value in values.items()]
        program = f"env {' '.join(variables)} {shlex.join(words)}; echo exit code $?; sleep 600"
        size = ("-x", str(columns), "-y", str(rows))
        shell = f"tmux -L test wait-for recorded; {program}"
        self.tmux("new-session", "-d", *size, "-c", str(root), shell)
        self.tmux("pipe-pane", f"cat > {shlex.quote(str(self._written))}")
        self.tmux("wait-for", "-S", "recorded")

    def lines(self) -> list[str]:
        """What is on the screen."""
        return [line.rstrip() for line in self.tmux("capture-pane", "-p").splitlines()]

    def wait_for(self, *texts: str | re.Pattern[str]) -> list[str]:
        """Wait until the screen shows all of these texts and patterns; returns its lines."""
        shown: list[str] = []

        def seen() -> bool:
            shown[:] = self.lines()
            return all(any(_is_in(line, text) for line in shown) for text in texts)

        wait(seen, 240, lambda: f"the screen lacks some of {texts}:\n" + "\n".join(shown), 0.2)
        return shown

    def wait_until_written(self, text: str | re.Pattern[str]) -> None:
        """Wait until a line was written: it may be on the screen for a moment only."""

        def seen() -> bool:
            written = self._written.read_text(errors="replace") if self._written.exists() else ""
            return any(_is_in(line, text) for line in CONTROL.sub("", written).splitlines())

        wait(seen, 240, lambda: f"never written: {text}; now:\n" + "\n".join(self.lines()), 0.2)


def _is_in(line: str, text: str | re.Pattern[str]) -> bool:
    return text in line if isinstance(text, str) else bool(text.search(line))


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    with tempfile.TemporaryDirectory(prefix="tmux-") as folder:  # a socket's path must be short
        terminal = Terminal(Path(folder))
        yield terminal
        terminal.tmux("kill-server")


@pytest.mark.slow
@pytest.mark.long(25)
def test_the_live_view_in_a_real_terminal(
    terminal: Terminal, tmp_path: Path, digits: Digits
) -> None:
    small_run.prepare(tmp_path, digits, SPACE)
    terminal.run(80, 24, tmp_path, sys.executable, "-c", PROGRAM, *small_run.LAUNCH)
    terminal.wait_until_written("demo · loading Ray, Optuna and PyTorch · ")
    terminal.wait_until_written("demo · starting Ray · ")
    terminal.wait_until_written("demo · search · ")
    terminal.wait_until_written(PART)
    shown = terminal.wait_for("demo · search · ", "2 of 5 trials ended: 2 completed · 1 running",
                              "trial-0002  running")  # fmt: skip
    assert len(shown) <= 24
    assert any(line.split()[1:3] == ["best", "2/2"] for line in shown if "trial-" in line)
    assert any("core time" in line for line in shown)
    assert any(line.endswith("RMSE  conv_channels") for line in shown)
    terminal.tmux("send-keys", "C-c")
    terminal.wait_until_written("demo · stopping: waiting for 1 trial · ")
    shown = terminal.wait_for("exit code 130")
    assert any("crnn-search resume runs/demo" in line for line in shown)
    assert any(line.startswith("search: 2/5 · 2 completed · best ") for line in shown)
    assert not any(line.startswith("trial-0002") for line in shown), "the view has vanished"
    assert terminal.tmux("display-message", "-p", "#{cursor_flag}").strip() == "1"
    log = (tmp_path / "runs" / "demo" / "search.log").read_text()
    assert "trial-0001: completed after epoch 2" in log
    assert "FileNotFoundError" not in log
