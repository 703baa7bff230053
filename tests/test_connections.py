"""No command opens a connection to another machine that its user did not ask for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests import watching
from tests.small_run import PROGRAM, REPOSITORY, FinishedRun

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not watching.POSSIBLE, reason="needs Linux and a compiler"),
]

Watched = Callable[..., list[str]]


@pytest.fixture
def watched(tmp_path: Path, finished: FinishedRun) -> Watched:
    """Runs a program, with a new home, on a copy of the finished run; returns what it asks for."""
    shutil.copytree(finished.folder, tmp_path / "runs" / "demo")
    for name in ("data", "space.yaml"):
        (tmp_path / name).symlink_to(finished.root / name)
    variables = watching.environment(tmp_path)

    def run(program: str, *arguments: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=variables | {"PYTHONPATH": REPOSITORY},
        )
        assert done.returncode == 0, done.stderr
        return (tmp_path / watching.LOG).read_text().splitlines()

    return run


def test_a_connection_is_seen(watched: Watched) -> None:
    program = """
import contextlib, socket
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    with socket.socket(type=kind) as client, contextlib.suppress(OSError):
        client.settimeout(0.1)
        client.connect(("192.0.2.77", 9))
with contextlib.suppress(OSError):
    socket.getaddrinfo("name.invalid", 80)
"""
    assert watched(program) == ["connect 192.0.2.77"] * 2 + ["getaddrinfo name.invalid"]


@pytest.mark.parametrize(
    "words",
    [
        ["check", "space.yaml"],
        ["list"],
        ["status", "runs/demo"],
        ["logs", "runs/demo"],
        ["report", "runs/demo", "--data-dir", "data"],
        ["export", "runs/demo", "--data-dir", "data"],
        ["predict", "runs/demo/model/model.onnx", "one.png"],
        ["predict", "runs/demo/model", "one.png"],
    ],
    ids=" ".join,
)
def test_command_opens_no_connection(watched: Watched, tmp_path: Path, words: list[str]) -> None:
    Image.new("L", (28, 28)).save(tmp_path / "one.png")
    assert watched(PROGRAM, *words) == []
    written = {path.name.lower() for path in (tmp_path / "home").rglob("*") if path.is_file()}
    assert not {name for name in written if "device" in name or "telemetry" in name}


RAYS_OWN = {"connect 169.254.169.254", "getaddrinfo metadata.google.internal"}
"""Ray 2.60 asks the machine's metadata service which cloud it is in, whatever its settings."""


def test_launch_opens_no_connection_of_its_own(finished: FinishedRun) -> None:
    assert finished.done.returncode == 0, finished.done.stderr
    assert set((finished.root / watching.LOG).read_text().splitlines()) <= RAYS_OWN
