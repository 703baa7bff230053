"""What a cluster with token authentication refuses, seen from another host."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.cluster import Cluster, listens

HTTP = """
import sys, urllib.error, urllib.request
request = urllib.request.Request(sys.argv[1], headers=dict(h.split("=") for h in sys.argv[2:]))
try:
    print("STATUS", urllib.request.urlopen(request, timeout=10).status)
except urllib.error.HTTPError as error:
    print("STATUS", error.code)
"""

JOIN = """
import os, sys, ray
try:
    ray.init(sys.argv[1], logging_level="ERROR")
    print("JOINED", len(ray.nodes()))
except Exception as error:
    print("REFUSED", type(error).__name__, error)
os._exit(0)
"""

TOKEN = "$(cat .ray/auth_token)"
WRONG = "0123456789abcdef0123456789abcdef"
WITHOUT_AND_WRONG = ("RAY_AUTH_MODE=disabled", f"RAY_AUTH_TOKEN={WRONG}")


def checks(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """Each refusal and how it was told.

    Raises:
        RuntimeError: somebody was let in.
    """
    if listens(cluster.head, 8265):
        raise RuntimeError("the dashboard listens on more than loopback")
    yield "dashboard from another host", "no answer: it is bound to loopback"
    for what, path in (("dashboard", "/nodes?view=summary"), ("job API", "/api/jobs/")):
        url = f"http://127.0.0.1:8265{path}"
        told = [
            _status(cluster, url, *headers) for headers in ([], [f"Authorization=Bearer {WRONG}"])
        ]
        right = _status(cluster, url, f"Authorization=Bearer {TOKEN}")
        if right != "200" or not set(told) <= {"401", "403"}:
            raise RuntimeError(f"{what}: without, wrong and right token gave {told}, {right}")
        yield f"{what} without and with a wrong token", " and ".join(told)
    addresses = {
        "GCS": f"{cluster.head.address}:6379",
        "Ray client": f"ray://{cluster.head.address}:10001",
    }
    logs = {
        (what, words): _begin_join(cluster, what, words, address)
        for what, address in addresses.items()
        for words in WITHOUT_AND_WRONG
    }
    for what in addresses:
        for words in WITHOUT_AND_WRONG:
            process, log = logs[what, words]
            process.wait(60)
            told = log.read_text()
            if "JOINED" in told or not re.search("Unauthenticated|AuthenticationError", told):
                raise RuntimeError(f"{what} with {words} was not refused:\n{told}")
        yield f"{what} without and with a wrong token", "Unauthenticated and Unauthenticated"


def _begin_join(
    cluster: Cluster, what: str, words: str, address: str
) -> tuple[subprocess.Popen[bytes], Path]:
    """Try to join from the head host itself; Ray would try for long."""
    log = cluster.log.with_name(f"join-{what}-{words}.log".replace(" ", "-"))
    command = f"{words} timeout 20 venv/bin/python -c '{JOIN}' {address}"
    return cluster.begin_ssh(cluster.head, command, log), log


def _status(cluster: Cluster, url: str, *headers: str) -> str:
    words = " ".join(f'"{header}"' for header in headers)
    told = cluster.ssh(cluster.head, f"venv/bin/python -c '{HTTP}' '{url}' {words}")
    return told.split("STATUS ")[1].split()[0]
