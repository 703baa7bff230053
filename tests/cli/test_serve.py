"""`crnn-search serve`: what it refuses, what it starts, and what it says."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from starlette.testclient import TestClient

from crnn_search.models.server import listen
from tests.cli.conftest import CommandLine
from tests.models.networks import SPECS, write
from tests.models.server.fakes import WHITE

TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    write(SPECS["embedding"], folder, "onnx")
    return folder / "model.onnx"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Becomes the application that is served, for no time."""
    found: list[Any] = []

    def serve(app: Any, listening: socket.socket, ready: Callable[[], None]) -> None:
        found.append(app)
        ready()

    monkeypatch.setattr(listen, "serve", serve)
    monkeypatch.delenv(listen.TOKEN_VARIABLE, raising=False)
    return found


def test_a_server_in_one_process(crnn_search: CommandLine, model: Path, served: list[Any]) -> None:
    done = crnn_search("serve", str(model), "--port", "0", "--no-ray")
    assert (done.code, done.err) == (0, "")
    first, second = done.out.splitlines()
    assert first.startswith("sum: http://127.0.0.1:")
    assert second == "Ctrl-C ends it"
    client = TestClient(served[0], base_url="http://localhost")
    answer = client.post("/predict", json={"sequences": [[WHITE]]})
    assert answer.json()["predictions"][0]["warnings"][0]["kind"] == "empty"


def test_a_new_token_is_printed_and_one_of_the_user_is_not(
    crnn_search: CommandLine, model: Path, served: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("serve", str(model), "--port", "0", "--no-ray", "--host", "0.0.0.0")
    (line,) = [line for line in crnn_search(*words).out.splitlines() if line.startswith("token: ")]
    monkeypatch.setenv(listen.TOKEN_VARIABLE, TOKEN)
    done = crnn_search(*words)
    assert "token" not in done.out
    assert TOKEN not in done.out + done.err
    assert listen.TOKEN_VARIABLE not in os.environ, "of what is started"
    for app, token in zip(served, (line.removeprefix("token: "), TOKEN), strict=True):
        client = TestClient(app)
        assert client.get("/model").status_code == 401
        headers = {"authorization": f"Bearer {token}"}
        assert client.get("/model", headers=headers).status_code == 200


def test_replicas_are_asked_for_by_their_file(
    crnn_search: CommandLine, model: Path, served: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []

    def replicas(path: Path, count: int, *_: Any) -> Any:
        started.append((path, count))
        raise KeyboardInterrupt

    serving = mock.MagicMock(replicas=replicas)  # the module itself imports Ray Serve, which warns
    monkeypatch.setitem(sys.modules, "crnn_search.pipeline.serving", serving)
    monkeypatch.delattr("crnn_search.pipeline.serving", raising=False)
    done = crnn_search("serve", str(model.parent), "--port", "0", "--replicas", "3")
    assert done.code == 130
    assert started == [(model, 3)]
    assert not served


def test_the_server_needs_its_extra(
    crnn_search: CommandLine, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    done = crnn_search("serve", str(model))
    assert done.code == 2
    assert "not installed: pip install 'crnn-search[serve]'" in done.err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["nothing"], "nothing does not exist; give a model's file"),
        (["MODEL", "--port", "-1"], "Invalid value for '--port'"),
        (["MODEL", "--replicas", "0"], "Invalid value for '--replicas'"),
        (["MODEL", "--host", "192.0.2.1"], "cannot listen on 192.0.2.1 with --port 8000"),
    ],
)
def test_what_is_refused(
    crnn_search: CommandLine, model: Path, words: list[str], error: str
) -> None:
    done = crnn_search("serve", *[word.replace("MODEL", str(model)) for word in words])
    assert done.code == 2
    assert error in done.err


def test_a_port_that_is_taken_is_refused(crnn_search: CommandLine, model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        done = crnn_search("serve", str(model), "--port", port)
    assert done.code == 2
    assert f"--port {port}: Address already in use; name another address" in done.err
