"""Every command of the README does what the README says.

`launch` is run for real once, by the `finished` fixture; here the README's own launch lines are run
up to the point where the search would start. All others run on the finished small run, which is
named `demo` as in the README.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import pytest
from PIL import Image

from crnn_search.cli import app
from crnn_search.cluster.jobs import Submitted
from crnn_search.data.digits import Digits
from crnn_search.hyperparameters import PARAMETERS, ModelSpec, TrainingSpec, TrialConfig
from crnn_search.spaces.file import parse_space
from crnn_search.storage.cache import CACHE_VARIABLE
from crnn_search.tuning import dashboard
from crnn_search.tuning.dashboard import OpenStudy
from tests.cli.test_forecast import FORECAST
from tests.small_run import FinishedRun, run_here

ROOT = Path(__file__).parent.parent
README, SPACE_PAGE = (ROOT / "README.md").read_text(), (ROOT / "docs" / "space.md").read_text()


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


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
    if line.split()[1] in {"report", "compare", "export", "predict", "status", "resume"}
]
DATA = [line for line in COMMANDS if line.startswith("crnn-search data")]
EXTENSIONS = [line for line in COMMANDS if line.startswith("crnn-search extend")]
CHECKS = [line for line in COMMANDS if line.startswith("crnn-search check")]
ELSEWHERE = [line for line in COMMANDS if "--address http" in line]
TENSORBOARD = [line for line in COMMANDS if line.startswith("crnn-search tensorboard")]
DASHBOARD = [line for line in COMMANDS if line.startswith("crnn-search dashboard")]


def test_every_command_has_a_test() -> None:
    kinds = (LAUNCHES, DATA, EXTENSIONS, MAKES, ON_A_RUN, CHECKS, ELSEWHERE, TENSORBOARD)
    assert all(kinds)
    assert sorted(itertools.chain(*kinds, DASHBOARD)) == sorted(COMMANDS)


@pytest.mark.parametrize("line", MAKES)
def test_make_targets_exist(line: str) -> None:
    target = line.split()[1]
    done = subprocess.run(
        ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert TARGETS[target] in done.stdout


TARGETS = {
    "search": "crnn-search launch search_spaces/quick.yaml",
    "test": '--dist loadgroup -n 2 -m "not slow',
    "test-slow": '--dist loadgroup -n 4 -m "(slow',
}
"""What the targets that README names run."""


class StartedError(Exception):
    """A command was about to start its work."""


@pytest.mark.parametrize("line", LAUNCHES)
def test_launch_lines_are_valid(
    line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, finished: FinishedRun
) -> None:
    started: list[Any] = []

    def start(space: Any, run: Any, *_: Any, **__: Any) -> None:
        started.append((space, run))
        raise StartedError

    shutil.copytree(ROOT / "search_spaces", tmp_path / "search_spaces")
    if "--warm-start" in line:
        shutil.copytree(finished.folder, tmp_path / "runs" / "demo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("crnn_search.pipeline.run.launch", start)
    words = shlex.split(line.replace("/shared/runs", str(tmp_path / "shared")))
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(StartedError, match=r"^$"):
        app.main()
    space, run = started[0]
    assert run.root.is_dir()
    if "--trials" in words:
        assert space.search.trials == int(words[words.index("--trials") + 1])


@pytest.mark.parametrize("line", EXTENSIONS)
def test_extend_lines_are_valid(
    line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, finished: FinishedRun
) -> None:
    def start(run: Any, trials: int, *_: Any) -> None:
        raise StartedError(f"{trials} more")

    shutil.copytree(finished.folder, tmp_path / "runs" / "demo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("crnn_search.pipeline.run.extend", start)
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(StartedError, match=r"^20 more$"):
        app.main()


@pytest.mark.parametrize("line", CHECKS)
def test_check_lines_find_valid_spaces(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    monkeypatch.setattr("crnn_search.api.forecast", lambda *_, **__: FORECAST)
    with pytest.raises(SystemExit, match=r"^(None|0|)$"):
        app.main()
    printed = capsys.readouterr().out
    assert "is valid" in printed
    assert ("simulated runs" in printed) == ("--forecast" in line)


def test_lines_on_data(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    digits: Digits,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr("crnn_search.data.mnist.load", lambda *_: digits)
    for line in DATA:
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        with pytest.raises(SystemExit, match=r"^(None|0|)$"):
            app.main()
    printed = capsys.readouterr().out
    assert "clips has 400 sequences" in printed
    assert "clips is valid" in printed
    assert (tmp_path / "clips" / "space.yaml").is_file()
    with Image.open(tmp_path / "clips.png") as sheet:
        assert sheet.height > 500


@pytest.mark.parametrize("line", ON_A_RUN)
def test_lines_on_a_finished_run(line: str, finished: FinishedRun) -> None:
    for name in ("one", "two", "three"):
        Image.new("L", (28, 28)).save(finished.root / f"{name}.png")
    words = shlex.split(line)[1:]
    before = (finished.folder / "report.json").read_bytes()
    data = ["--data-dir", "data"] if words[0] in {"report", "export", "resume"} else []
    done = run_here(finished.root, *words, *data)
    assert done.returncode == 0, done.stderr
    printed = {
        "report": "test RMSE",
        "compare": "comparison.html",
        "export": "onnx: largest difference to PyTorch",
        "predict": "one.png: ",
        "status": "demo: finished",
        "resume": "nothing is left to do",
    }
    assert printed[words[0]] in done.stdout
    assert (finished.folder / "report.json").read_bytes() == before
    if words[0] == "predict":
        parts = [part.split(":")[0] for part in done.stdout.splitlines()]
        assert parts == [*words[2:], "sum"]


@pytest.mark.parametrize("line", TENSORBOARD)
def test_tensorboard_line_names_the_event_files(
    line: str, monkeypatch: pytest.MonkeyPatch, finished: FinishedRun
) -> None:
    started = mock.MagicMock()
    monkeypatch.setattr("os.execve", started)
    done = run_here(finished.root, *shlex.split(line)[1:])
    assert done.returncode == 0
    assert done.stdout.startswith("TensorBoard: http://127.0.0.1:")
    words = started.call_args.args[1]
    folder = finished.root / words[words.index("--logdir") + 1]
    assert list(folder.glob("search/trial-0000/events.*"))


@pytest.mark.parametrize("line", DASHBOARD)
def test_dashboard_line_serves_the_study(
    line: str, monkeypatch: pytest.MonkeyPatch, finished: FinishedRun
) -> None:
    served: list[OpenStudy] = []
    monkeypatch.setattr(dashboard, "serve", lambda study, *_: served.append(study))
    assert run_here(finished.root, *shlex.split(line)[1:]).returncode == 0
    assert [study.page for study in served] == ["dashboard/studies/1"]


@pytest.mark.slow
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
            os.killpg(process.pid, signal.SIGTERM)
            # TensorBoard writes that it ends. Where it cannot, it may go on.
            process.communicate(timeout=60)
    assert opened


class FakeCluster:
    """A cluster with one job; records what is called."""

    calls: ClassVar[list[str]] = []
    known = Submitted("demo-1", "RUNNING", "/shared/runs/demo", 1)

    def __init__(self, address: str) -> None:
        assert address == "http://127.0.0.1:8265"

    def submit(self, arguments: list[str], run: str, *_: object) -> str:
        assert run == self.known.run
        self.calls.append(arguments[0])
        return self.known.id

    def jobs(self) -> list[Submitted]:
        self.calls.append("jobs")
        return [self.known]

    def job(self, name: str) -> Submitted:
        assert name == self.known.run
        return self.known

    def follow(self, job: Submitted) -> None:
        self.calls.append("follow")

    def stop(self, job: Submitted) -> Submitted:
        self.calls.append("stop")
        return job


def test_lines_for_another_cluster_call_its_job_api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("crnn_search.cluster.jobs.Cluster", FakeCluster)
    for line in ELSEWHERE:
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        with pytest.raises(SystemExit, match=r"^(None|0|)$"):
            app.main()
    assert FakeCluster.calls == ["launch", "jobs", "follow", "stop", "resume"]


def test_python_snippets_run(finished: FinishedRun) -> None:
    for snippet in blocks("python"):
        done = subprocess.run(
            [sys.executable, "-c", snippet], cwd=finished.root, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.strip("[]\n").split()) == 2


def test_search_spaces_in_the_text_are_valid() -> None:
    for text in (*blocks("yaml"), *blocks("yaml", SPACE_PAGE)):
        parse_space(text)
    assert set(blocks("console", SPACE_PAGE)) <= set(blocks("console"))


def test_table_of_hyperparameters_is_complete() -> None:
    defaults = TrialConfig(ModelSpec(), TrainingSpec()).to_dict()
    for name, rule in PARAMETERS.items():
        default = str(defaults[name]).lower() if rule.kind == "bool" else defaults[name]
        row = f"| `{name}` | {rule.describe()} | {default} | {rule.help} |"
        assert row in SPACE_PAGE


@pytest.mark.parametrize("page", ["README.md", "docs/space.md", "docs/cluster.md"])
def test_linked_files_exist(page: str) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), target


@pytest.mark.parametrize("name", ["quick", "default", "mnist_crnn_2016"])
def test_each_space_starts_with_its_command(name: str) -> None:
    first = (ROOT / "search_spaces" / f"{name}.yaml").read_text().splitlines()[0]
    assert first == f"# crnn-search launch search_spaces/{name}.yaml"
