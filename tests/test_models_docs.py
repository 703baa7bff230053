"""The commands of docs/models.md, as printed: a run of sums, and a model of own data."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crnn_search.data.own import OwnSource
from crnn_search.data.read import read
from crnn_search.storage.cache import CACHE_VARIABLE
from crnn_search.storage.files import read_json
from tests.models.drawn_digits import EXAMPLES
from tests.models.networks import SPECS, write
from tests.small_run import REPOSITORY, FinishedRun, run_here

TEXT = (Path(REPOSITORY) / "docs" / "models.md").read_text(encoding="utf-8")


def lines(section: str) -> list[str]:
    """The commands of a section."""
    text = TEXT.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"^\$ (.*)$", text, flags=re.MULTILINE)


COMMANDS = [shlex.split(line)[1:] for line in lines("Evaluate")]


@pytest.fixture
def place(tmp_path: Path, finished: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the run `demo`, MNIST in the cache, and a data set `clips` with its model."""
    root = tmp_path / "here"
    shutil.copytree(finished.folder, root / "runs" / "demo")
    (root / "data").symlink_to(finished.root / "data")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "mnist").symlink_to(finished.root / "data")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    done = run_here(root, "data", "example", "clips", "--sequences", "100", "--data-dir", "data")
    assert done.returncode == 0, done.stderr
    info = OwnSource(read(root / "clips"), "clips", "points").info
    write(SPECS["embedding"], root / "runs" / "clips" / "model", "onnx", task=info)
    images = np.zeros((5, 3, *info.shape[1:]), np.uint8)
    np.savez(root / "new.npz", images=images, targets=np.arange(5))
    return root


@pytest.mark.slow
def test_predict_as_printed(finished: FinishedRun, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, tmp_path / "runs" / "demo")
    (tmp_path / "pictures").mkdir()
    for path in EXAMPLES.glob("c*.png"):
        shutil.copy(path, tmp_path / "pictures")
    for name in ("one", "two", "three"):
        shutil.copy(EXAMPLES / "a1_7.png", tmp_path / f"{name}.png")
    program = f'crnn-search() {{ {sys.executable} -m crnn_search "$@"; }}'
    for line in lines("Predict"):
        words = ["bash", "-c", f"set -eo pipefail; {program}; {line}"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert done.stderr == "" or "unlike those" in done.stderr
        assert done.returncode in ({0, 2} if "--strict" in line else {0})
        if "--json" in line:
            assert len(json.loads(done.stdout)["running"]) == 5
    for name in ("running", "seen"):
        with Image.open(tmp_path / f"{name}.png") as sheet:
            assert sheet.width > 300


@pytest.mark.long(30)
@pytest.mark.slow
def test_evaluate_as_printed(place: Path, finished: FinishedRun) -> None:
    printed = []
    for command in COMMANDS:
        done = run_here(place, *command)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        printed.append(done.stdout)
    sums, clips, new = printed
    assert sums.startswith("mnist: the 60,000 sequences of the report's test, 1,000 images\n")
    exported = read_json(finished.folder / "report.json")["test"]["exported_rmse"]
    rmse = re.search(r"  RMSE +([0-9.]+) ", sums)
    assert rmse is not None
    assert float(rmse[1]) == pytest.approx(exported, abs=0.005)
    assert clips.startswith("clips: the split test, ")
    assert "written: errors.csv\nwritten: worst.png\n" in clips
    rows = list(csv.DictReader((place / "errors.csv").read_text().splitlines()))
    assert 10 <= len(rows) <= 20
    with Image.open(place / "worst.png") as sheet:
        assert sheet.height > 500
    figures = json.loads(new)
    assert (figures["score"]["sequences"], figures["own_data"]) == (5, False)
