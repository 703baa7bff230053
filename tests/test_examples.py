"""Every block of docs/python.md and every example runs, on synthetic digits in place of MNIST.

The notebook's code cells run in order: that needs neither Jupyter nor a kernel. Script, notebook
and MLflow example search as the blocks do: their trials are those of a run that has ended.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import crnn_search
from crnn_search.data.digits import Digits
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage import jsonl
from tests.small_run import HOOKS, REPOSITORY, SPACE, FinishedRun, one_core, prepare

ROOT = Path(REPOSITORY)
TEXT = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
READING = re.findall(r"```python\n(.*?)```", TEXT.split("## Read a run")[1], flags=re.DOTALL)
COMMANDS = re.findall(r"^\$ crnn-search (.*)$", TEXT, flags=re.MULTILINE)

PRELUDE = """
import hashlib, pathlib
from crnn_search.data import mnist
folder = pathlib.Path("data").absolute()
mnist.FILES = {
    name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in mnist.FILES
}
load = mnist.load
mnist.load = lambda data_dir=None, **more: load(data_dir or folder, **more)
"""

WITHOUT_RAY = """
from crnn_search.data import digits
from tests.pipeline.small_pipeline import no_ray
digits.VALIDATION_SEQUENCES = 1000
without_ray = no_ray()
without_ray.__enter__()
"""
"""A program's trials train in its own process, on few validation sequences."""


def run_program(root: Path, program: str, *arguments: str, **variables: str) -> str:
    """Run a program on synthetic digits in a process of its own; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + program, *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        preexec_fn=one_core,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([REPOSITORY, *_inherited()]), **variables},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _inherited() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def test_every_example_has_a_test() -> None:
    names = sorted(path.name for path in (ROOT / "examples").iterdir() if path.is_file())
    assert names == ["mlflow_callback.py", "score_onnx.py", "search.ipynb", "search.py"]
    assert len(BLOCKS) == len(READING) + 4
    assert len(COMMANDS) == 1


def test_blocks_that_read_a_run(finished: FinishedRun, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    with contextlib.chdir(finished.root):
        for block in READING:
            exec(block, names)
    printed = capsys.readouterr().out
    assert printed.startswith("finished ")
    assert "validation_rmse" in printed
    assert "dropout" in printed


@pytest.mark.slow
def test_a_program_without_this_package_gets_the_reported_figures(finished: FinishedRun) -> None:
    words = [str(ROOT / "examples" / "score_onnx.py"), str(finished.folder), "data"]
    program = "import runpy, sys; sys.modules['crnn_search'] = sys.modules['torch'] = None; "
    program += "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=finished.root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = dict(re.findall(r"(\w+): RMSE ([\d.]+)", done.stdout))
    report = json.loads((finished.folder / "report.json").read_text())
    assert float(found["model"]) == pytest.approx(report["test"]["exported_rmse"], abs=0.002)
    assert float(found["ensemble"]) == pytest.approx(report["ensemble"]["rmse"], abs=0.002)


def replayed(folder: Path) -> Callable[..., crnn_search.Run]:
    """`launch`, but its trials are those of a run that has ended, and it returns that run."""
    signature = inspect.signature(crnn_search.launch)

    def launch(*arguments: Any, **options: Any) -> crnn_search.Run:
        space = signature.bind(*arguments, **options).arguments["space"]
        assert isinstance(space, SearchSpace | str | Path)
        for trial in jsonl.read(folder / "trials.jsonl"):
            if hook := options.get("on_trial_end"):
                hook(trial | {"stage": "search"})
        return crnn_search.open_run(folder)

    return launch


def test_script(
    finished: FinishedRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(crnn_search, "launch", replayed(finished.folder))
    runpy.run_path(str(ROOT / "examples" / "search.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert printed.count("trial-000") == 5
    assert "test RMSE: " in printed
    assert "sum of three blank images: [" in printed


@pytest.mark.long(20)
@pytest.mark.slow
def test_all_blocks_in_order(tmp_path: Path, digits: Digits) -> None:
    prepare(
        tmp_path / "x", digits, SPACE.replace("seeds: 2, finalists: 2", "seeds: 1, finalists: 1")
    )
    printed = run_program(tmp_path / "x", "\n".join([WITHOUT_RAY, *BLOCKS]))
    assert len(re.findall(r"^search \d [A-Z]+$", printed, flags=re.MULTILINE)) == 5
    assert len(crnn_search.open_run(tmp_path / "x" / "runs" / "demo").trials()) == 7
    assert "retrain 0 COMPLETE" in printed
    assert re.search(
        r"^1 trials at once, 0\.\d\d to 0\.\d\d core hours$", printed, flags=re.MULTILINE
    )


def test_command_with_a_hook(finished: FinishedRun) -> None:
    words = shlex.split(COMMANDS[0])
    assert words == ["launch", "space.yaml", "--name", "hooks", *HOOKS[:2]]
    summary = json.loads((finished.root / "summary.json").read_text())
    report = crnn_search.open_run(finished.folder).report()
    assert summary == {
        "run": "runs/demo", "name": "demo", "state": "finished", "error": None,
        "test_rmse": report["test"]["rmse"], "report": "runs/demo/report.md",
    }  # fmt: skip
    lines = (finished.root / "trials.txt").read_text().splitlines()
    trials = [json.loads(line) for line in lines if line]
    searched = [trial for trial in trials if trial["stage"] == "search"]
    ledger = jsonl.read(finished.folder / "trials.jsonl")
    assert searched == [trial | {"stage": "search"} for trial in ledger]


def test_notebook(finished: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crnn_search, "launch", replayed(finished.folder))
    logger = logging.getLogger("crnn_search")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", logger.level)
    cells = json.loads((ROOT / "examples" / "search.ipynb").read_text(encoding="utf-8"))["cells"]
    assert all(cell["outputs"] == [] for cell in cells if cell["cell_type"] == "code")
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert len(names["trials"]) == 5


@pytest.mark.slow
def test_mlflow(tmp_path: Path, finished: FinishedRun) -> None:
    pytest.importorskip("mlflow", reason="needs the extra examples")
    replay = f"""
import pathlib
import crnn_search
from tests.test_examples import replayed
crnn_search.launch = replayed(pathlib.Path({str(finished.folder)!r}))
"""
    count = """
import mlflow
client = mlflow.MlflowClient()
(experiment,) = [e for e in client.search_experiments() if e.name == "crnn-search"]
found = client.search_runs([experiment.experiment_id])
assert all(run.data.metrics["validation_rmse"] > 0 for run in found)
assert all("learning_rate" in run.data.params for run in found)
print("runs:", len(found))
"""
    example = ROOT / "examples" / "mlflow_callback.py"
    run = f"import runpy; runpy.run_path({str(example)!r}, run_name='__main__')"
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    program = replay + run + "\n" + count
    assert "runs: 5" in run_program(finished.root, program, "space.yaml", MLFLOW_TRACKING_URI=uri)
