"""Every command with an output that is closed, full or of another encoding, and without a home."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from PIL import Image

from crnn_search.cli import terminal
from crnn_search.data.mnist_sums import MnistSource
from crnn_search.errors import CrnnSearchError
from crnn_search.hyperparameters import ModelSpec, TrainingSpec, TrialConfig
from crnn_search.storage.run_folder import RunFolder
from crnn_search.training import checkpoint
from crnn_search.training.model import CRNN
from tests.cli.conftest import SPACE, CommandLine

REPOSITORY = str(Path(__file__).parents[2])
PROGRAM = "from crnn_search.cli.app import main; main()"

WORK = """
from crnn_search.pipeline import run as pipeline
from crnn_search.hyperparameters import TrialConfig
from crnn_search.results import summary
from crnn_search.storage import stages
from crnn_search.storage.trial import Trial, TrialRecord, TrialState
from crnn_search.tuning.progress import Stage
def work(*arguments, **options):
    run, progress = [a for a in arguments if hasattr(a, "root") or hasattr(a, "note")]
    reason = "ValueError: [/x] \\x1b[31m größer ×" + "a" * 5000
    trial = Trial("trial-0000", 0, TrialConfig.from_dict({}), 0, 1, 1, 1, "mnist_sums/8")
    record = TrialRecord(trial, [2.5], [1.0], state=TrialState.FAIL, reason=reason)
    records = {"search": {"trial-0000": record}}
    progress.stage(Stage("search", "search", 1, 1, 1, (), records))
    progress.started("trial-0000")
    progress.epoch("trial-0000")
    progress.ended("trial-0000")
    progress.note("a note \\udcff [/x]")
    progress.close()
    run.report_json.write_text("{}")
    stages.record(run, stages.REPORT, [run.report_json])
pipeline.launch = work
summary.summary = lambda report: "summary · ×"
"""
"""A pipeline that shows a trial and prints a summary, in place of the real one."""


@dataclass(frozen=True)
class Conditions:
    """How a command runs. shell: what the shell does before it. out: its standard output."""

    shell: str = ""
    redirected: str = ""
    out: str | None = None
    variables: dict[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()


CONDITIONS = {
    "closed output": Conditions(redirected=">&-"),
    "all closed": Conditions(redirected="<&- >&- 2>&-"),
    "reader gone": Conditions(out="gone"),
    "full": Conditions(out="/dev/full"),
    "full, unbuffered": Conditions(out="/dev/full", variables={"PYTHONUNBUFFERED": "1"}),
    "errors full": Conditions(redirected="2>/dev/full"),
    "ASCII": Conditions(variables={"PYTHONIOENCODING": "ascii"}),
    "Latin-2": Conditions(variables={"PYTHONIOENCODING": "iso8859-2"}),
    "C locale": Conditions(
        variables={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ),
    "no home": Conditions(without=("HOME",)),
    "read-only home": Conditions(variables={"HOME": "/proc"}),
    "folder gone": Conditions(shell="mkdir gone && cd gone && rmdir ../gone && "),
}

SHORT = {
    "closed, no home": Conditions(redirected=">&-", without=("HOME",)),
    "full, read-only home": Conditions(out="/dev/full", variables={"HOME": "/proc"}),
    "reader gone": Conditions(out="gone"),
    "ASCII": CONDITIONS["ASCII"],
    "folder gone": CONDITIONS["folder gone"],
}
"""The same for most commands, some of them two at once: all commands begin alike."""

COMMANDS = {
    "help": "--help",
    "version": "--version",
    "unknown": "lunch\x1b[31m",
    "check": "check {root}/a[/x]·.yaml",
    "check of a wrong space": "check {root}/wrong.yaml",
    "list": "list --storage {root}/runs",
    "status": "status {root}/runs/demo",
    "trials": "trials {root}/runs/demo",
    "logs": "logs {root}/runs/demo",
    "stop": "stop {root}/runs/demo",
    "tensorboard": "tensorboard {root}/runs/demo --port -5",
    "dashboard": "dashboard {root}/runs/demo --port -5",
    "submit": "submit {root}/space.yaml --storage {root}/runs --address http://127.0.0.1:9",
    "resume": "resume {root}/runs/demo",
    "extend": "extend {root}/runs/demo --trials 1",
    "report": "report {root}/runs/demo",
    "export": "export {root}/runs/demo",
    "predict": "predict {root}/größe.safetensors {root}/·.png",
}


ALL_CONDITIONS = {"help", "unknown", "check", "status"}
"""Commands that are run under each condition: output and errors of Typer, tables, plain lines."""

SLOW = {"check", "status", "submit", "predict"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with spaces, a run that has not started, a model and an image."""
    root = tmp_path_factory.mktemp("terminal")
    for path in (root / "a[" / "x]·.yaml", root / "space.yaml"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(SPACE)
    (root / "wrong.yaml").write_text('space: {"größer\\u202e\\x1b[/x]": 1}')
    run = RunFolder(root / "runs" / "demo")
    run.root.mkdir(parents=True)
    run.space.write_text(SPACE)
    run.log.write_bytes("größer \x1b[31m red · ×\n".encode() + b"\xff\n")
    config = TrialConfig(ModelSpec(conv_channels=(2,), gru_sizes=(4,)), TrainingSpec())
    torch.manual_seed(0)
    info = {"task": MnistSource(max_digits=8).info.to_dict()}
    checkpoint.save_model(root / "größe.safetensors", CRNN(config.model), config, info)
    Image.new("L", (28, 28)).save(root / "·.png")
    return root


def run(
    root: Path, command: str, conditions: Conditions = Conditions(), before: str = ""
) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", before + PROGRAM, *command.format(root=root).split()]
    shell = f'{conditions.shell}exec "$@" {conditions.redirected}'
    variables = {**os.environ, "PYTHONPATH": REPOSITORY, "COLUMNS": "80", **conditions.variables}
    for name in ("PYTHONUNBUFFERED", *conditions.without):
        if name not in conditions.variables:
            variables.pop(name, None)
    with _output(conditions.out) as out:
        return subprocess.run(
            ["sh", "-c", shell, "sh", *words],
            cwd=root,
            env=variables,
            stdout=out,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            timeout=100,
        )


@contextlib.contextmanager
def _output(kind: str | None) -> Iterator[int]:
    if kind is None:
        yield subprocess.PIPE
        return
    if kind == "gone":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open(kind, os.O_WRONLY)
    try:
        yield writer
    finally:
        os.close(writer)


def assert_clean(done: subprocess.CompletedProcess[str], what: str) -> None:
    for word in ("Traceback", "Exception ignored", "\x1b"):
        assert word not in (done.stdout or "") + done.stderr, what
    assert done.returncode in {0, 1, 2}, (what, done.returncode, done.stderr)


@pytest.mark.parametrize(
    "command",
    [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in COMMANDS],
)
def test_a_command_has_no_traceback_whatever_its_output(root: Path, command: str) -> None:
    expected = run(root, COMMANDS[command])
    assert_clean(expected, "a pipe")
    for name, conditions in (CONDITIONS if command in ALL_CONDITIONS else SHORT).items():
        done = run(root, COMMANDS[command], conditions)
        assert_clean(done, name)
        lost = conditions.out is not None and expected.stdout
        if name == "folder gone" and "the current folder" in done.stderr:
            continue
        code = expected.returncode or (1 if lost else 0)
        assert done.returncode == code, (name, done.stderr)
        if conditions.out == "/dev/full" and lost:
            assert done.stderr.count("No space left on device") == 1
        if name == "reader gone" and lost:
            assert done.stderr == expected.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SHORT if name != "folder gone"])
def test_a_search_goes_on_whatever_its_output(root: Path, name: str) -> None:
    storage = root / "launched" / name.replace(" ", "-")
    conditions = SHORT[name]
    words = f"launch {{root}}/space.yaml --storage {storage} --name demo"
    done = run(root, words, conditions, WORK)
    assert_clean(done, name)
    assert (storage / "demo" / "report.json").exists(), done.stderr
    assert done.returncode == (1 if conditions.out else 0)
    if done.stdout:
        assert "failed after epoch 1 ? validation RMSE 2.500, train RMSE 1.000 ? " in done.stdout
        assert r" ? ValueError: [/x] \x1b" in done.stdout
        assert r"a note \udcff [/x]" in done.stdout
        assert len(done.stdout) < 2000


@dataclass
class Refusing(io.TextIOBase):
    """A stream that cannot be written."""

    code: int = errno.ENOSPC

    def write(self, text: str) -> int:
        raise OSError(self.code, os.strerror(self.code))

    def flush(self) -> None:
        raise OSError(self.code, os.strerror(self.code))

    def fileno(self) -> int:
        return 7


def test_errors_and_a_runs_progress_may_be_lost_but_no_other_output(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Refusing())
    terminal.complain("an error")
    terminal.lasting_console().print("a note")
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    with pytest.raises(CrnnSearchError, match="cannot write the output: No space left"):
        terminal.show("a result")
    with pytest.raises(CrnnSearchError, match="cannot write the output: No space left"):
        terminal.show_table(["a"], [["b"]])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EPIPE])
def test_lost_output_is_an_exit_code_and_a_message_unless_the_reader_has_gone(
    monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    errors = io.StringIO()
    monkeypatch.setattr(sys, "stdout", Refusing(code))
    monkeypatch.setattr(sys, "stderr", errors)
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    assert [terminal.flush(exit_code) for exit_code in (0, 2)] == [1, 2]
    message = "error: cannot write the output: No space left on device\n"
    assert errors.getvalue() == ("" if code == errno.EPIPE else message * 2)


def test_nothing_in_a_table_is_markup(capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["[/x]", "[bold]a", ":smile:", "\x1b[31m"]
    terminal.show_table(["[/x]", "[bold]", ":smile:", "x"], [texts])
    first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["[/x]", "[bold]", ":smile:", "x"]
    assert second.split() == ["[/x]", "[bold]a", ":smile:", r"\x1b[31m"]


def test_python_encodes_what_a_stream_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    terminal.prepare()
    terminal.show("größer · \udcff")
    stream.flush()
    assert stream.buffer.getvalue() == b"gr??er ? \\udcff\n"


def test_standard_streams_that_are_closed_are_not_given_to_files(tmp_path: Path) -> None:
    code = (
        "from crnn_search.cli import terminal; terminal.prepare(); import os\n"
        "file = open('a', 'w')\n"
        "print(file.fileno() > 2, file=file)\n"
        "print('x'); os.write(1, b'y'); os.write(2, b'z')"
    )
    words = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", code]
    variables = {**os.environ, "PYTHONPATH": REPOSITORY}
    subprocess.run(words, check=True, cwd=tmp_path, env=variables)
    assert (tmp_path / "a").read_text() == "True\n"


def test_a_file_that_no_command_expects_to_fail_is_one_line(
    monkeypatch: pytest.MonkeyPatch, crnn_search: CommandLine, space: Path
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), "a/[/x]\x1b")

    monkeypatch.setattr("crnn_search.spaces.file.load_space", fail)
    done = crnn_search("check", str(space))
    assert done.code == 1
    assert done.err == (
        "error: cannot use a/[/x]\\x1b: Input/output error; make room, or make it readable and "
        "writable, then run the command again\n"
    )


def test_a_disk_that_is_full_at_the_start_leaves_no_run(
    monkeypatch: pytest.MonkeyPatch, crnn_search: CommandLine, space: Path, tmp_path: Path
) -> None:
    def full(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("logging.FileHandler.__init__", lambda *_, **__: full(tmp_path))
    storage = tmp_path / "runs"
    done = crnn_search("launch", str(space), "--storage", str(storage), "--name", "demo")
    assert done.code == 2
    assert "search.log: No space left on device; make room, or choose another folder" in done.err
    assert list(storage.iterdir()) == []
