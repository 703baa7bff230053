"""Finds the cluster that `--address` means, and sees that it answers: Ray would try for minutes."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import ray

from crnn_search.errors import InputError

TIMEOUT_S = 2.0
"""How long a cluster may take to accept a connection, and again to say what it is."""

PROCESSES = Path("/proc")
CLIENT = "ray://"
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How a connection of HTTP/2, thus of gRPC, begins: with an empty SETTINGS frame."""

SETTINGS_TYPE = 4


def find(address: str) -> str:
    """The address of a cluster that answers.

    address: `auto`, HOST:PORT or ray://HOST:PORT. `auto` is `RAY_ADDRESS` or, where that is not
    set, the cluster that `ray start` began on this machine.

    Raises:
        InputError: nothing answers there.
    """
    if address != "auto":
        known = [address]
    elif variable := os.environ.get("RAY_ADDRESS"):
        known = [variable]
    else:
        known = list(dict.fromkeys(_running_here()))
    problems = []
    for candidate in known:
        problem = _why_unusable(candidate)
        if problem is None:
            return candidate
        problems.append(f"nothing answers at {candidate}: {problem}")
    raise InputError(
        ("; ".join(problems) or "no cluster runs on this machine")
        + "; name a running cluster (auto or HOST:6379), or leave --address out to start a local "
        "one"
    )


def _running_here() -> Iterator[str]:
    """Addresses of this machine's clusters: as `ray start` wrote it, and of running nodes."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108
    with contextlib.suppress(OSError):  # its temporary folder may be another
        yield (Path(folder) / "ray" / "ray_current_cluster").read_text(encoding="utf-8").strip()
    option = "--gcs-address="
    for path in PROCESSES.glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # it has ended
        if words[0].endswith("/raylet"):
            yield from (word.removeprefix(option) for word in words if word.startswith(option))


def _why_unusable(address: str) -> str | None:
    """Why no cluster can be used at HOST:PORT, or None."""
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdigit():
        return "it must be auto or HOST:PORT"
    if host in LOOPBACK and not address.startswith(CLIENT):
        host = ray.util.get_node_ip_address()  # as Ray does
    try:
        with socket.create_connection((host, int(port)), TIMEOUT_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in {"", "0"}:
                return None
            connection.sendall(PREFACE)
            header = connection.recv(9)
    except (OSError, OverflowError) as error:
        return str(error)
    is_settings = len(header) > 3 and header[3] == SETTINGS_TYPE
    return None if is_settings else "what answers is no Ray cluster"
