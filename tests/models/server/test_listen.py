"""Where the server listens, its token, and requests as sockets bring them."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from crnn_search.errors import InputError
from crnn_search.models.server import listen
from crnn_search.models.server.app import InProcess, build_app
from crnn_search.models.server.limits import Limits
from tests.models.server.fakes import brightness
from tests.models.server.running import running

TOKEN = "0123456789abcdef"


def test_a_port_that_is_taken_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(InputError, match=rf"--port {port}: Address already in use; name anot"):
            listen.bind("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "error"),
    [
        ("192.0.2.1", "cannot listen on 192.0.2.1 with --port 0: Cannot assign requested address"),
        ("x" * 70, "--host must be a name or an address of this machine, got 'xxx"),
        ("256.0.0.1\0", "--host must be a name or an address of this machine"),
    ],
)
def test_a_host_that_is_not_this_machine_is_an_error(host: str, error: str) -> None:
    with pytest.raises(InputError, match=re.escape(error)):
        listen.bind(host, 0)


@pytest.mark.parametrize(
    ("host", "url", "has_token"),
    [
        ("127.0.0.1", r"http://127\.0\.0\.1:\d+/", False),
        ("localhost", r"http://(127\.0\.0\.1|\[::1\]):\d+/", False),
        ("127.0.0.5", r"http://127\.0\.0\.5:\d+/", False),
        ("0.0.0.0", r"http://0\.0\.0\.0:\d+/", True),
    ],
)
def test_others_need_a_token(
    host: str, url: str, has_token: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(listen.TOKEN_VARIABLE, raising=False)
    with listen.bind(host, 0) as listening:
        assert re.fullmatch(url, listen.url_of(listening))
        first, second = listen.token_for(listening), listen.token_for(listening)
    assert (first.value is not None) == first.is_new == has_token
    if has_token:
        assert len(str(first.value)) >= 32
        assert first != second


def test_a_token_of_the_user_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(listen.TOKEN_VARIABLE, TOKEN)
    for host in ("127.0.0.1", "0.0.0.0"):
        with listen.bind(host, 0) as listening:
            assert listen.token_for(listening) == (TOKEN, False)


@pytest.mark.parametrize("token", ["", "secret", "a secret with spaces", "gehéim-und-lang-genug"])
def test_a_token_that_is_none_is_refused_and_not_shown(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(listen.TOKEN_VARIABLE, token)
    with listen.bind("127.0.0.1", 0) as listening, pytest.raises(InputError) as caught:
        listen.token_for(listening)
    rule, _, got = str(caught.value).rpartition(", got ")
    assert rule.startswith("CRNN_SEARCH_SERVE_TOKEN must have 16 characters or more")
    assert got == f"{len(token)} characters"


def test_an_onnx_file_is_preferred(tmp_path: Path) -> None:
    run, model = tmp_path / "run", tmp_path / "run" / "model"
    model.mkdir(parents=True)
    (model / "model.safetensors").touch()
    assert [listen.preferred(path) for path in (run, model)] == [run, model]
    (model / "model.onnx").touch()
    found = [listen.preferred(path) for path in (run, model, model / "model.safetensors")]
    assert found == [model / "model.onnx"] * 2 + [model / "model.safetensors"]


def sent(url: str, data: bytes) -> bytes:
    """The head of what a server answers to bytes."""
    port = int(url.rstrip("/").rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(data)
        answer = b""
        while b"\r\n\r\n" not in answer and (part := client.recv(4096)):
            answer += part
    return answer


def test_requests_that_are_no_http_or_do_not_end() -> None:
    limits = Limits(body_s=0.2, body_bytes=1000)
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with running(build_app(brightness(), InProcess(brightness(), limits, 1), limits=limits)) as url:
        for data, status in (
            (b"\x16\x03\x01\x02\x00 no http\r\n\r\n", b"400"),
            (head + b"Content-Length: -5\r\n\r\n", b"400"),
            (head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", b"400"),
            (head + b"X: " + b"x" * 70_000, b"400"),
            (head + b"Content-Length: 50\r\n\r\n{", b"408"),
            (head + b"Content-Length: 99999\r\n\r\n{", b"413"),
            (head + b"Transfer-Encoding: chunked\r\n\r\nfff\r\n" + b" " * 2000, b"413"),
        ):
            assert sent(url, data).split()[1] == status, data
