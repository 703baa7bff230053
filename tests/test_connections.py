"""No command opens a connection to another machine that its user did not ask for."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests import watching
from tests.small_run import PROGRAM, REPOSITORY, FinishedRun

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not watching.POSSIBLE, reason="needs Linux and a compiler"),
    pytest.mark.xdist_group("connections"),  # one process for all
    pytest.mark.long(20),
]

PROBE = """
import contextlib, socket
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    with socket.socket(type=kind) as client, contextlib.suppress(OSError):
        client.settimeout(0.1)
        client.connect(("192.0.2.77", 9))
with contextlib.suppress(OSError):
    socket.getaddrinfo("name.invalid", 80)
"""
SEEN = ["connect 192.0.2.77"] * 2 + ["getaddrinfo name.invalid"]

COMMANDS = [
    "check space.yaml",
    "list",
    "status runs/demo",
    "logs runs/demo",
    "report runs/demo --data-dir data",
    "export runs/demo --data-dir data",
    "predict runs/demo/model/model.onnx one.png",
    "predict runs/demo/model one.png",
]

FORKS = """
import json, os, sys
import onnx, optuna, plotly.offline, torch
programs, log = json.loads(sys.argv[1])
for number, (program, words) in enumerate(programs):
    if not os.fork():
        break
    print(os.waitstatus_to_exitcode(os.wait()[1]))
else:
    exec(program)
    sys.exit()
os.chdir(str(number))
os.environ["HOME"], os.environ["CONNECTIONS"] = os.path.abspath("home"), os.path.abspath(log)
printed = os.open("printed", os.O_WRONLY | os.O_CREAT)
os.dup2(printed, 1)
os.dup2(printed, 2)
sys.argv[1:] = words
exec(program)
"""
"""Each program in a process and a folder of its own: what one sets hides nothing of another.

They are forks of one process, because importing the libraries takes longer than most of them. That
process runs the last program itself, at its end.
"""


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, finished: FinishedRun) -> Path:
    """The folder of `FORKS`, and below it the commands' and the probe's, each with a new home.

    The commands run on copies of the finished run.
    """
    root = tmp_path_factory.mktemp("watched")
    programs = [(PROGRAM, words.split()) for words in COMMANDS] + [(PROBE, [])]
    for number in range(len(programs)):
        folder = root / str(number)
        shutil.copytree(finished.folder, folder / "runs" / "demo")
        for name in ("data", "space.yaml"):
            (folder / name).symlink_to(finished.root / name)
        Image.new("L", (28, 28)).save(folder / "one.png")
        (folder / "home").mkdir()
        (folder / watching.LOG).touch()
    done = subprocess.run(
        [sys.executable, "-uc", FORKS, json.dumps([programs, watching.LOG])],
        cwd=root,
        capture_output=True,
        text=True,
        env=watching.environment(root) | {"PYTHONPATH": REPOSITORY},
    )
    assert done.returncode == 0, done.stderr
    (root / "codes").write_text(done.stdout)
    return root


def asked(folder: Path) -> list[str]:
    """Which addresses and names the program in a folder asked for."""
    return (folder / watching.LOG).read_text().splitlines()


def test_a_connection_is_seen_and_the_libraries_open_none(watched: Path) -> None:
    """In a fork, and in the process that has imported them."""
    assert asked(watched / str(len(COMMANDS))) == asked(watched) == SEEN


@pytest.mark.parametrize("words", COMMANDS)
def test_command_opens_no_connection(watched: Path, words: str) -> None:
    folder = watched / str(COMMANDS.index(words))
    code = (watched / "codes").read_text().split()[COMMANDS.index(words)]
    assert code == "0", (folder / "printed").read_text()
    assert asked(folder) == []
    written = {path.name.lower() for path in (folder / "home").rglob("*") if path.is_file()}
    assert not {name for name in written if "device" in name or "telemetry" in name}


RAYS_OWN = {"connect 169.254.169.254", "getaddrinfo metadata.google.internal"}
"""Ray 2.60 asks the machine's metadata service which cloud it is in, whatever its settings."""


def test_launch_opens_no_connection_of_its_own(finished: FinishedRun) -> None:
    assert finished.done.returncode == 0, finished.done.stderr
    assert set((finished.root / watching.LOG).read_text().splitlines()) <= RAYS_OWN
