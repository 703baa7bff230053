"""`crnn-search serve` with Ray Serve: a real server, a replica that is killed, and its end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.listening import addresses
from tests.models.networks import SPECS, write
from tests.models.server.fakes import BLACK, WHITE
from tests.models.server.malformed import below
from tests.small_run import REPOSITORY
from tests.waiting import wait

pytestmark = pytest.mark.slow

PROGRAM = "from crnn_search.cli.app import main; main()"

START_S = 200


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    write(SPECS["embedding"], folder, "safetensors", "onnx")
    return folder


def ask(url: str, sequences: list[list[str]]) -> Any:
    body = json.dumps({"sequences": sequences}).encode()
    request = urllib.request.Request(f"{url}predict", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["predictions"]


def replicas(pid: int) -> list[int]:
    """The replicas that a server's process has started."""
    found = []
    for one in below(pid):
        with contextlib.suppress(OSError):  # it has ended
            if Path(f"/proc/{one}/cmdline").read_bytes().startswith(b"ray::ServeReplica"):
                found.append(one)
    return found


@pytest.fixture
def server(model: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    words = ["serve", str(model), "--port", "0", "--replicas", "2"]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": REPOSITORY},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("sum: http://127.0.0.1:"), process.communicate()
            assert process.stdout.readline() == "Ctrl-C ends it\n"
            yield process, line.split()[1]
        finally:
            process.kill()


@pytest.mark.long(60)
def test_a_server_from_its_start_to_its_end(
    server: tuple[subprocess.Popen[str], str], model: Path
) -> None:
    process, url = server
    first, second = ask(url, [[WHITE], [BLACK, WHITE]])
    assert first["prediction"] == first["running"][0] == second["running"][0]
    assert [warning["kind"] for warning in second["warnings"]] == ["empty", "empty"]
    assert {address for address in addresses() if address != "127.0.0.1"} == set()

    before = replicas(process.pid)
    assert len(before) == 2
    os.kill(before[0], signal.SIGKILL)

    def is_replaced() -> bool:
        return len(replicas(process.pid)) == 2 and before[0] not in replicas(process.pid)

    wait(is_replaced, START_S, "the replica was not replaced")
    assert ask(url, [[WHITE]])[0]["prediction"] == first["prediction"]

    everything = list(below(process.pid))
    assert len(everything) > 5
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert len(out.splitlines()) <= 1, "what Ray says of the replica"
    wait(lambda: not list(filter(_runs, everything)), 20, "processes are left")
    with socket.create_server(("127.0.0.1", int(url.split(":")[2].rstrip("/")))):
        pass  # the port is free again


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
