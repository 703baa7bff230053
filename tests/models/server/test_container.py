"""The server with the packages of its container's list alone, and the container's file."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.models.conftest import FolderOf
from tests.models.server.fakes import WHITE

REPOSITORY = Path(__file__).parents[3]
SERVER = REPOSITORY / "crnn_search" / "models" / "server"
PACKAGES = (SERVER / "requirements.txt").read_text().split()

IMPORTS = """
import sys
import crnn_search.models.server.app, crnn_search.models.server.listen
import crnn_search.models.server.__main__, crnn_search.models.onnx_file
print(*{"torch", "ray", "optuna", "onnx", "yaml", "pandas"} & set(sys.modules))
"""


def bare(folder: Path) -> Path:
    """A folder for imports with the files of `PACKAGES` and this one, and nothing else."""
    for package in PACKAGES:
        for file in importlib.metadata.files(package.partition("==")[0]) or []:
            if file.parts[0] not in {"..", "__pycache__"}:
                place = folder / Path(*file.parts)
                place.parent.mkdir(parents=True, exist_ok=True)
                _link(Path(str(file.locate())), place)
    (folder / "crnn_search").symlink_to(REPOSITORY / "crnn_search")
    return folder


def _link(file: Path, place: Path) -> None:
    try:
        place.hardlink_to(file)  # OpenCV resolves symbolic ones
    except OSError:  # on another file system
        shutil.copy(file, place)


def test_versions_are_those_of_the_constraints() -> None:
    known = (REPOSITORY / "constraints.txt").read_text().split()
    assert set(PACKAGES) <= set(known)
    assert len(PACKAGES) < 30


def test_the_server_imports_neither_pytorch_nor_ray() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_the_image_copies_what_exists_and_runs_as_a_user_of_its_own() -> None:
    text = (SERVER / "Dockerfile").read_text()
    for source in re.findall(r"^COPY (\S+) ", text, flags=re.MULTILINE):
        assert (REPOSITORY / source).exists()
    order = [text.index(word) for word in ("FROM python:3.11-slim", "\nUSER crnn", "\nENTRYPOINT")]
    assert order == sorted(order)
    assert "/healthz" in text


@pytest.mark.slow
def test_the_listed_packages_are_enough(tmp_path: Path, folder_of: FolderOf) -> None:
    words = ["-S", "-m", "crnn_search.models.server", str(folder_of("embedding")), "--port", "0"]
    with subprocess.Popen(
        [sys.executable, *words],
        cwd=tmp_path,
        env={"PYTHONPATH": str(bare(tmp_path / "packages")), "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("sum: http://127.0.0.1:"), process.communicate()
        url = line.split()[1]
        with urllib.request.urlopen(f"{url}healthz") as answer:
            assert json.load(answer) == {"status": "ok"}
        request = urllib.request.Request(
            f"{url}predict",
            json.dumps({"sequences": [[WHITE, WHITE]]}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            (found,) = json.load(answer)["predictions"]
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=60)
    assert (len(found["running"]), found["warnings"][0]["kind"]) == (2, "empty")
    assert (process.returncode, out, errors) == (0, "", "")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["nothing.onnx"], "error: nothing.onnx does not exist; give a model's file"),
        (["model.onnx", "--port", "99999"], "error: --port must be from 0 to 65535, got 99999"),
    ],
)
def test_wrong_words_are_one_message(
    words: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from crnn_search.models.server.__main__ import main

    assert main(words) == 2
    printed = capsys.readouterr()
    assert re.match(error, printed.err), printed.err
    assert printed.err.count("\n") == 1
