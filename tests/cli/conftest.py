"""The command line, run in this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from crnn_search.cli import app

SPACE = "space: {dropout: {float: [0.0, 0.5]}}"


@dataclass(frozen=True)
class Done:
    """Exit code, standard output and standard error of a command."""

    code: int
    out: str
    err: str


CommandLine = Callable[..., Done]


@pytest.fixture
def crnn_search(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Runs `crnn-search` with the given arguments, on a terminal of 80 columns."""

    def run(*arguments: str) -> Done:
        monkeypatch.setenv("COLUMNS", os.environ.get("COLUMNS", "80"))
        monkeypatch.setattr(sys, "argv", ["crnn-search", *arguments])
        monkeypatch.setattr("os._exit", sys.exit)
        capsys.readouterr()
        with pytest.raises(SystemExit, match=r".*") as caught:
            app.main()
        printed = capsys.readouterr()
        return Done(int(caught.value.code or 0), printed.out, printed.err)

    return run


@pytest.fixture
def space(tmp_path: Path) -> Path:
    """A valid search space."""
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return path
