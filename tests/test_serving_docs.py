"""docs/serving.md, as printed, on a small model: its commands, requests, tables and limits."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import crnn_search
from crnn_search.models.server import __main__ as server
from crnn_search.models.server import listen
from crnn_search.models.server.app import InProcess, build_app
from crnn_search.models.server.limits import CONNECTIONS, IMAGES, SEQUENCES, Limits
from tests.cli.conftest import CommandLine
from tests.cli.conftest import crnn_search as crnn_search_fixture
from tests.models.networks import SPECS, write
from tests.models.server.running import running
from tests.small_run import REPOSITORY

PAGE = Path(REPOSITORY) / "docs" / "serving.md"
TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ (.*)$", TEXT, flags=re.MULTILINE)
(PROGRAM,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
URL = "http://127.0.0.1:8000/"
TOKEN = "0123456789abcdef"

command_line = crnn_search_fixture


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, pictures and a token."""
    folder = tmp_path_factory.mktemp("docs")
    write(SPECS["embedding"], folder / "runs" / "demo" / "model", "onnx")
    pictures = sorted((Path(REPOSITORY) / "examples" / "digits").glob("*.png"))
    for name, picture in zip(("one", "two", "three"), pictures, strict=False):
        shutil.copy(picture, folder / f"{name}.png")
    (folder / "token.txt").write_text(f"{TOKEN}\n")
    return folder


@pytest.fixture
def url(root: Path) -> Iterator[str]:
    model = crnn_search.load_model(root / "runs" / "demo" / "model" / "model.onnx")
    with running(build_app(model, InProcess(model, Limits(), 1))) as found:
        yield found


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, root: Path) -> list[str]:
    """Becomes the addresses that are served, for no time; replicas are not started."""
    addresses: list[str] = []

    def serve(app: Any, listening: socket.socket, ready: Callable[[], None]) -> None:
        addresses.append(listen.url_of(listening))
        ready()

    serving = mock.MagicMock(replicas=lambda *_: contextlib.nullcontext())
    monkeypatch.setitem(sys.modules, "crnn_search.pipeline.serving", serving)
    monkeypatch.delattr("crnn_search.pipeline.serving", raising=False)
    monkeypatch.setattr(listen, "serve", serve)
    monkeypatch.setattr(listen, "bind", lambda host, port, bind=listen.bind: bind(host, 0))
    monkeypatch.chdir(root)
    return addresses


def commands(start: str) -> list[str]:
    return [line for line in COMMANDS if start in line]


def test_every_command_has_a_test() -> None:
    kinds = ("crnn-search serve", "curl", "docker", "pip install", "python -m")
    assert sorted(line for kind in kinds for line in commands(kind)) == sorted(COMMANDS)
    assert all(map(commands, kinds))


def test_the_server_starts_as_printed(
    command_line: CommandLine, served: list[str], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = commands("crnn-search serve")
    done = command_line(*shlex.split(first)[1:])
    printed = [line.replace(served[0], URL) for line in done.out.splitlines()]
    assert "\n".join([f"$ {first}", *printed]) in TEXT
    value, _, rest = second.partition("crnn-search ")
    assert value == f"{listen.TOKEN_VARIABLE}=$(cat token.txt) "
    monkeypatch.setenv(listen.TOKEN_VARIABLE, (root / "token.txt").read_text().strip())
    assert "token" not in command_line(*shlex.split(rest)).out
    assert served[1].startswith("http://0.0.0.0:")
    (module,) = commands("python -m")
    assert server.main(shlex.split(module)[3:]) == 0
    assert len(served) == 3


def test_requests_are_answered(root: Path, url: str) -> None:
    (line,) = commands("curl")
    done = subprocess.run(
        shlex.split(line.replace(URL, url)), cwd=root, capture_output=True, text=True
    )
    assert '"running":[' in done.stdout
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.chdir(root):
        exec(PROGRAM.replace(URL, url), {})
    first, second = out.getvalue().splitlines()
    assert len(re.findall(r"\d\.\d+", first)) > len(re.findall(r"\d\.\d+", second)) >= 2


def test_tables_name_what_there_is(url: str) -> None:
    with urllib.request.urlopen(f"{url}metrics") as answer:
        text = answer.read().decode()
    for name in re.findall(r"`((?:crnn_search|process)_\w+)`", TEXT):
        assert re.search(rf"^# TYPE {name.removesuffix('_total')}", text, flags=re.MULTILINE), name


def test_limits_are_those_of_the_server() -> None:
    limits = Limits()
    for sentence in (
        f"a body of {limits.body_bytes // 2**20} MiB, which arrives within {limits.body_s:g} s",
        f"{SEQUENCES} sequences, {IMAGES:,} images in all",
        f"{limits.image_pixels // 10**6} million pixels of an image, "
        f"{limits.request_pixels // 10**6} million of a request",
        f"{limits.bytes_at_once // 2**20} MiB of bodies, {CONNECTIONS:,} connections at once",
        f"{listen.LEAST_TOKEN} characters or more",
    ):
        assert sentence in TEXT, sentence


def test_files_that_are_named_exist() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", TEXT):
        assert (PAGE.parent / target).exists(), target
    for line in commands("docker build") + commands("pip install"):
        (path,) = [word for word in shlex.split(line) if "/" in word]
        assert (Path(REPOSITORY) / path).is_file()
