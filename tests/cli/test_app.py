"""Help, version, exit codes and start-up of the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from crnn_search import __version__
from crnn_search.cli.app import COMMANDS
from tests.cli.conftest import SPACE, CommandLine

NAMES = [name for commands in COMMANDS.values() for name in commands]
LIGHT = """
import contextlib, io, sys
from crnn_search.cli.app import app
for arguments in (["--help"], ["--version"], ["check", "space.yaml"], ["status", "."], ["list"]):
    with contextlib.redirect_stdout(io.StringIO()):
        app(arguments, standalone_mode=False)
    assert not {"ray", "torch", "optuna"} & set(sys.modules), arguments
"""


def test_help_lists_the_commands_by_subject(crnn_search: CommandLine) -> None:
    done = crnn_search("--help")
    assert done.code == 0
    assert done.out == crnn_search("-h").out
    _, *subjects = done.out.split("Options:\n")[1].split("\n\n")
    listed = {
        part.splitlines()[0]: [line.split()[0] for line in part.splitlines()[1:]]
        for part in subjects
    }
    assert listed == {f"{subject}:": list(names) for subject, names in COMMANDS.items()}
    assert "..." not in "".join(subjects), "a description is cut off"


@pytest.mark.parametrize("command", [None, *NAMES])
def test_help_fits_80_columns(crnn_search: CommandLine, command: str | None) -> None:
    done = crnn_search(*([command] if command else []), "--help")
    assert done.code == 0
    assert [line for line in done.out.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("command", NAMES)
def test_each_command_is_described_in_one_sentence(crnn_search: CommandLine, command: str) -> None:
    usage, description, *_ = crnn_search(command, "--help").out.split("\n\n")
    assert usage.startswith(f"Usage: crnn-search {command} ")
    sentence = " ".join(description.split())
    assert sentence.endswith(".")
    assert ". " not in sentence
    assert sentence in crnn_search("--help").out


def test_version(crnn_search: CommandLine) -> None:
    assert crnn_search("--version").out == f"crnn-search {__version__}\n"


@pytest.mark.parametrize("arguments", [["lunch"], ["check", "--bogus"], ["launch"], ["--bogus"]])
def test_unknown_commands_and_options_are_refused(
    crnn_search: CommandLine, arguments: list[str]
) -> None:
    done = crnn_search(*arguments)
    assert done.code == 2
    assert "Usage: crnn-search" in done.err


def test_wrong_arguments_are_cut_and_printable(crnn_search: CommandLine, space: Path) -> None:
    for words in (["x\x1b[31m"], ["check", str(space), "--samples", "x\x1b[31m" + "y" * 5000]):
        done = crnn_search(*words)
        assert done.code == 2
        assert "\x1b" not in done.err
        assert "y" * 200 not in done.err


def test_interruption_exits_130(
    monkeypatch: pytest.MonkeyPatch, crnn_search: CommandLine, space: Path
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("crnn_search.spaces.file.load_space", interrupt)
    done = crnn_search("check", str(space))
    assert done.code == 130
    assert "interrupted" in done.err


def test_light_commands_import_neither_ray_nor_torch_nor_optuna(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "space.yaml").write_text(SPACE)
    done = subprocess.run(
        [sys.executable, "-c", LIGHT], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
