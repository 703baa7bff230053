"""Addresses where no cluster answers are refused within seconds."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crnn_search.cluster import address
from crnn_search.errors import InputError

SETTINGS_FRAME = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
HTTP = b"HTTP/1.1 400 Bad Request\r\n\r\n"


@contextmanager
def server(answer: bytes | None) -> Iterator[str]:
    """HOST:PORT of a server that says this to each client; None: nothing, as if it was stopped."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held = []

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                held.append(client)
                if answer is not None:
                    client.recv(100)
                    client.sendall(answer)

        if answer is not None:
            threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        for client in held:
            client.close()


@pytest.fixture(autouse=True)
def no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No cluster on this machine; the file in which `ray start` would write its address."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setattr(address, "PROCESSES", tmp_path / "proc")
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


@pytest.fixture
def dead() -> str:
    """HOST:PORT where nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


def refused(given: str) -> str:
    started = time.monotonic()
    with pytest.raises(InputError, match="leave --address out to start a local one") as caught:
        address.find(given)
    assert time.monotonic() - started < 5
    return str(caught.value)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_cluster_that_answers_is_taken(scheme: str) -> None:
    with server(SETTINGS_FRAME) as place:
        assert address.find(scheme + place) == scheme + place


def test_auto_without_a_cluster_is_refused() -> None:
    assert "no cluster runs on this machine" in refused("auto")


def test_auto_with_a_dead_variable_is_refused(monkeypatch: pytest.MonkeyPatch, dead: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", dead)
    assert f"nothing answers at {dead}: " in refused("auto")


def test_auto_with_a_stale_file_is_refused(no_cluster: Path, dead: str) -> None:
    no_cluster.write_text(dead)
    assert f"nothing answers at {dead}: " in refused("auto")


def test_auto_takes_a_running_node_before_a_stale_file(
    no_cluster: Path, tmp_path: Path, dead: str
) -> None:
    no_cluster.write_text(dead)
    (tmp_path / "proc" / "7").mkdir(parents=True)
    with server(SETTINGS_FRAME) as place:
        words = ["/lib/ray/raylet", "--node_id=1", f"--gcs-address={place}", ""]
        (tmp_path / "proc" / "7" / "cmdline").write_text("\0".join(words))
        assert address.find("auto") == place


def test_auto_takes_the_variable_before_the_file(
    monkeypatch: pytest.MonkeyPatch, no_cluster: Path, dead: str
) -> None:
    with server(SETTINGS_FRAME) as place, server(SETTINGS_FRAME) as other:
        no_cluster.write_text(other)
        assert address.find("auto") == other
        monkeypatch.setenv("RAY_ADDRESS", place)
        assert address.find("auto") == place


@pytest.mark.parametrize(
    ("answer", "problem"), [(HTTP, "what answers is no Ray cluster"), (None, "timed out")]
)
def test_other_servers_and_silent_ones_are_refused(answer: bytes | None, problem: str) -> None:
    with server(answer) as place:
        assert problem in refused(place)


@pytest.mark.parametrize("given", ["", "head", "head:", ":6379", "head:x", "http://head", "local"])
def test_what_is_no_address_is_refused(given: str) -> None:
    assert "it must be auto or HOST:PORT" in refused(given)


def test_port_out_of_range_is_refused() -> None:
    assert "nothing answers at 127.0.0.1:99999" in refused("127.0.0.1:99999")
