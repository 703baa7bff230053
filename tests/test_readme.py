"""Every command of the README does what the README says.

`launch` is run for real once, by the `finished` fixture; here the README's own launch lines are run
up to the point where the search would begin. All the others run on the finished small run, which is
named `demo` as in the README.
"""

from __future__ import annotations

import itertools
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from crnn_search.cli import app
from crnn_search.cluster.jobs import Submitted
from crnn_search.hyperparameters import PARAMETERS, ModelSpec, TrainingSpec, TrialConfig
from crnn_search.spaces.file import parse_space
from tests.small_run import FinishedRun, command

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


COMMANDS = [
    line.removeprefix("$ ")
    for block in blocks("console")
    for line in block.splitlines()
    if line.startswith("$ ")
]
LAUNCHES = [line for line in COMMANDS if line.startswith("crnn-search launch")]
MAKES = [line for line in COMMANDS if line.startswith("make ")]
ON_A_RUN = [
    line
    for line in COMMANDS
    if line.split()[1] in {"report", "export", "predict", "status", "resume"}
]
EXTENSIONS = [line for line in COMMANDS if line.startswith("crnn-search extend")]
CHECKS = [line for line in COMMANDS if line.startswith("crnn-search check")]
ELSEWHERE = [line for line in COMMANDS if "--address http" in line]
TENSORBOARD = [line for line in COMMANDS if line.startswith("crnn-search tensorboard")]


def test_every_command_is_run_by_one_of_these_tests() -> None:
    kinds = (LAUNCHES, EXTENSIONS, MAKES, ON_A_RUN, CHECKS, ELSEWHERE, TENSORBOARD)
    assert all(kinds)
    assert sorted(itertools.chain(*kinds)) == sorted(COMMANDS)


@pytest.mark.parametrize("line", MAKES)
def test_make_targets_are_there(line: str) -> None:
    done = subprocess.run(
        ["make", "-n", line.split()[1]], cwd=ROOT, capture_output=True, text=True, check=True
    )
    expected = {"search": "crnn-search launch search_spaces/quick.yaml", "test": "-m pytest"}
    assert expected[line.split()[1]] in done.stdout


class BegunError(Exception):
    """A command came as far as its work."""


@pytest.mark.parametrize("line", LAUNCHES)
def test_launch_lines_are_accepted_up_to_the_search(
    line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, finished: FinishedRun
) -> None:
    started: list[Any] = []

    def begin(space: Any, run: Any, *_: Any, **__: Any) -> None:
        started.append((space, run))
        raise BegunError

    shutil.copytree(ROOT / "search_spaces", tmp_path / "search_spaces")
    if "--warm-start" in line:
        shutil.copytree(finished.folder, tmp_path / "runs" / "demo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("crnn_search.pipeline.run.run", begin)
    monkeypatch.setattr(app, "_configure_logging", lambda run, verbose: None)
    words = shlex.split(line.replace("/shared/runs", str(tmp_path / "shared")))
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(BegunError, match=r"^$"):
        app.main()
    space, run = started[0]
    assert run.root.is_dir()
    if "--trials" in words:
        assert space.search.trials == int(words[words.index("--trials") + 1])


@pytest.mark.parametrize("line", EXTENSIONS)
def test_extend_lines_are_accepted_up_to_the_search(
    line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, finished: FinishedRun
) -> None:
    def begin(run: Any, trials: int, *_: Any) -> None:
        raise BegunError(f"{trials} more")

    shutil.copytree(finished.folder, tmp_path / "runs" / "demo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("crnn_search.pipeline.run.extend", begin)
    monkeypatch.setattr(app, "_configure_logging", lambda run, verbose: None)
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(BegunError, match=r"^20 more$"):
        app.main()


@pytest.mark.parametrize("line", CHECKS)
def test_check_lines_find_the_spaces_valid(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit, match=r"^(None|0|)$"):
        app.main()
    assert "is valid" in capsys.readouterr().out


@pytest.mark.parametrize("line", ON_A_RUN)
def test_lines_on_a_finished_run(line: str, finished: FinishedRun) -> None:
    for name in ("one", "two", "three"):
        Image.new("L", (28, 28)).save(finished.root / f"{name}.png")
    words = shlex.split(line)[1:]
    if words[0] not in {"predict", "status"}:
        words += ["--data-dir", "data"]
    done = command(finished.root, *words)
    assert done.returncode == 0, done.stderr
    if words[0] == "predict":
        assert [part.split(":")[0] for part in done.stdout.splitlines()] == words[2:]


@pytest.mark.parametrize("line", TENSORBOARD)
def test_tensorboard_opens(line: str, finished: FinishedRun) -> None:
    words = [*shlex.split(line)[1:], "--port", "0"]
    program = "from crnn_search.cli.app import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", program, *words],
        cwd=finished.root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        try:
            opened = any("http://127.0.0.1:" in text for text in process.stderr)
        finally:
            import os
            import signal

            os.killpg(process.pid, signal.SIGTERM)
    assert opened


class Head:
    """A cluster that knows one job and does what it is told."""

    told: ClassVar[list[str]] = []
    known = Submitted("demo-1", "RUNNING", "/shared/runs/demo", 1)

    def __init__(self, address: str) -> None:
        assert address == "http://127.0.0.1:8265"

    def submit(self, arguments: list[str], run: str, space: str | None = None) -> str:
        assert run == self.known.run
        self.told.append(arguments[0])
        return self.known.id

    def jobs(self) -> list[Submitted]:
        self.told.append("jobs")
        return [self.known]

    def job(self, name: str) -> Submitted:
        assert name == self.known.run
        return self.known

    def follow(self, job: Submitted) -> None:
        self.told.append("follow")

    def stop(self, job: Submitted) -> Submitted:
        self.told.append("stop")
        return job


def test_lines_for_a_cluster_elsewhere_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("crnn_search.cluster.jobs.Cluster", Head)
    for line in ELSEWHERE:
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        with pytest.raises(SystemExit, match=r"^(None|0|)$"):
            app.main()
    assert Head.told == ["launch", "jobs", "follow", "stop", "resume"]


def test_the_python_snippet_runs_without_this_package(finished: FinishedRun) -> None:
    for snippet in blocks("python"):
        done = subprocess.run(
            [sys.executable, "-c", snippet], cwd=finished.root, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.strip("[]\n").split()) == 2


def test_the_spaces_shown_are_valid() -> None:
    for text in blocks("yaml"):
        parse_space(text)


def test_the_table_of_hyperparameters_is_whole() -> None:
    defaults = TrialConfig(ModelSpec(), TrainingSpec()).to_dict()
    for name, rule in PARAMETERS.items():
        default = str(defaults[name]).lower() if rule.kind == "bool" else defaults[name]
        row = f"| `{name}` | {rule.describe()} | {default} | {rule.help} |"
        assert row in README


def test_linked_files_are_there() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("name", ["quick", "default", "mnist_crnn_2016"])
def test_each_space_is_headed_by_its_command(name: str) -> None:
    first = (ROOT / "search_spaces" / f"{name}.yaml").read_text().splitlines()[0]
    assert first == f"# crnn-search launch search_spaces/{name}.yaml"
