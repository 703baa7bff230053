"""Runs submitted to a cluster from elsewhere: a real head, its dashboard, its token."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from crnn_search.storage import jsonl
from crnn_search.storage.cache import CACHE_VARIABLE
from tests import held
from tests.data.folders import clips
from tests.small_run import REPOSITORY, TIMINGS, wait_for, without
from tests.waiting import wait

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("head")]  # one head for all

TOKEN = "a" * 32
SHELL = """
import contextlib, io, json, sys
from crnn_search.cluster import jobs
jobs.PROGRAM = "exec python driver_path"
from crnn_search.cli.app import main
for line in sys.stdin:
    sys.argv = ["crnn-search", *json.loads(line)]
    code, out, err = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""
"""The command line, whose jobs have a cache of their own and trials that are held.

It runs one command after another in one process: importing Ray takes longer than most of them.
"""

SPACE = """
task: {data: clips, unit: animals}
search: {trials: 4, max_epochs: 2, grace_epochs: 2, max_concurrent_trials: 1}
retrain: {epochs: 1, seeds: 1, finalists: 1}
resources: {precision: float32, cpu_kernels: off}
space: {conv_channels: [4], gru_sizes: [8], batch_size: 8, dropout: {float: [0.0, 0.5]}}
"""


@dataclass(frozen=True)
class Head:
    """A cluster of one node with two cores. root: a folder with a space and its data."""

    root: Path
    address: str
    shell: subprocess.Popen[str]

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        assert self.shell.stdin
        assert self.shell.stdout
        self.shell.stdin.write(json.dumps(arguments) + "\n")
        self.shell.stdin.flush()
        return subprocess.CompletedProcess(arguments, *json.loads(self.shell.stdout.readline()))

    def run(self, *arguments: str) -> str:
        done = self.command(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def submit(self, *arguments: str) -> str:
        """The id of a new job, which is submitted from a machine with a cache of its own."""
        words = ("submit", *arguments, "--address", self.address)
        return self.run(*words).splitlines()[0].removeprefix("job: ")

    def wait_for_end(self, job: str) -> str:
        """A job's last status."""

        def status() -> str:
            line = self.run("status", job, "--address", self.address).splitlines()[0]
            return line.removeprefix(f"{job}: ")

        going = {"pending", "running"}
        wait(lambda: status() not in going, 200, f"{job} does not end", pause_s=2)
        return status()


def environment() -> dict[str, str]:
    """Of a shell that has the cluster's token and this Python."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "RAY_ADDRESS"}}
    return kept | {"PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as client:
        return not client.connect_ex(("127.0.0.1", port))


@contextlib.contextmanager
def shell(root: Path) -> Iterator[subprocess.Popen[str]]:
    """`SHELL`, on a machine with a cache of its own."""
    own = {"PYTHONPATH": REPOSITORY, "COLUMNS": "200", CACHE_VARIABLE: str(root / "cache")}
    with subprocess.Popen(
        [sys.executable, "-c", SHELL.replace("driver_path", str(root / "driver.py"))],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment() | own,
    ) as process:
        yield process  # it ends when its input does


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    root = tmp_path_factory.mktemp("head")
    (root / "space.yaml").write_text(SPACE)
    clips(root / "clips", sequences=30)
    cache = f"import os; os.environ[{CACHE_VARIABLE!r}] = {str(root / 'cache on the head')!r}\n"
    main = "import sys\nsys.modules['mlflow'] = None  # see small_run.PROGRAM\n"
    main += "from crnn_search.cli.app import main\nmain()\n"
    (root / "driver.py").write_text(cache + held.PROGRAM + main)
    port = free_port()
    # Ray's sockets are in its folder, and the path of a socket has at most 107 bytes.
    rays = tempfile.mkdtemp(prefix="ray-")
    with (root / "ray.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
                *("--port=0", "--num-cpus=2", "--node-ip-address=127.0.0.1"),
                *("--include-dashboard=true", "--dashboard-host=127.0.0.1"),
                *(f"--dashboard-port={port}", f"--dashboard-agent-listen-port={free_port()}"),
                *("--disable-usage-stats", f"--ray-client-server-port={free_port()}"),
                *(f"--object-store-memory={200 * 2**20}", f"--temp-dir={rays}"),
            ],
            env=environment() | {"PYTHONPATH": REPOSITORY, held.FOLDER: str(root)},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 180  # a busy machine starts Ray slowly
        while not answers(port):
            assert process.poll() is None, (root / "ray.log").read_text()
            assert time.monotonic() < deadline, "the dashboard does not start"
            time.sleep(0.2)
        with shell(root) as commands:
            yield Head(root, f"http://127.0.0.1:{port}", commands)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=30)
        shutil.rmtree(rays, ignore_errors=True)


@pytest.mark.long(120)
def test_two_submitted_searches_share_a_cluster_and_one_is_resumed(head: Head) -> None:
    """Their data are sent with each job; when one is resumed, they are in the head's cache."""
    storage = head.root / "shared"
    folder = ("--storage", str(storage))
    first = head.submit("space.yaml", "--name", "first", *folder)
    second = head.submit("space.yaml", "--name", "second", *folder)
    shutil.rmtree(head.root / "clips")
    for name in ("first", "second"):
        wait_for(storage / name, event="epoch", name="trial-0002", epoch=1)  # there it waits
    listed = head.run("list", "--address", head.address)
    assert [line.split()[:2] for line in listed.splitlines()[1:]] == [
        [first, "running"],
        [second, "running"],
    ]
    assert head.run("list", *folder).count("  running: search  ") == 2

    # Through the job API, and through the storage alone.
    stopped = head.run("stop", first, "--address", head.address)
    assert f"{first}: stopped; continue with\n  crnn-search submit --resume" in stopped
    log = head.run("logs", first, "--address", head.address)
    assert "interrupted: everything so far is kept" in log, "it must stop as Ctrl-C does"
    assert f"{storage}/second was stopped" in head.run("stop", str(storage / "second"))
    assert "no process runs" in head.command("stop", str(storage / "second")).stderr
    assert head.run("list", *folder).count("  running: ") == 0

    ledgers = [jsonl.read(storage / name / "trials.jsonl") for name in ("first", "second")]
    assert without(TIMINGS, ledgers[0][:2]) == without(TIMINGS, ledgers[1][:2])
    held.go_file("first", head.root).touch()
    resumed = head.submit("--resume", str(storage / "first"))
    assert head.wait_for_end(resumed) == "succeeded"
    log = head.run("logs", resumed, "--address", head.address)
    assert "clips: count" in log
    assert "decoding" not in log
    ended = head.command("stop", str(storage / "first"), "--address", head.address)
    assert (ended.returncode, ended.stderr) == (
        2,
        f"error: {resumed} has ended already: succeeded\n",
    )


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"RAY_AUTH_TOKEN": "b" * 32}, "Authentication failed: Forbidden"),
        ({"RAY_AUTH_MODE": "disabled"}, "Authentication required: Unauthorized"),
    ],
)
def test_wrong_token_is_refused(head: Head, variables: dict[str, str], reason: str) -> None:
    program = "from crnn_search.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "list", "--address", head.address],
        capture_output=True,
        text=True,
        timeout=200,
        env=environment() | {"PYTHONPATH": REPOSITORY, "COLUMNS": "200"} | variables,
    )
    assert done.returncode == 2
    assert f"the Ray dashboard at {head.address} rejects the request: {reason}" in done.stderr
