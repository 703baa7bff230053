"""What a cluster with token authentication refuses, seen from another host."""

from __future__ import annotations

from collections.abc import Iterator

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
    print("REFUSED", type(error).__name__, str(error)[:200])
os._exit(0)
"""

TOKEN = "$(cat .ray/auth_token)"
WRONG = "0123456789abcdef0123456789abcdef"


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
    for what, address in (
        ("GCS", f"{cluster.head.address}:6379"),
        ("Ray client", f"ray://{cluster.head.address}:10001"),
    ):
        told = [
            cluster.ssh(cluster.head, f"{words} venv/bin/python -c '{JOIN}' {address}")
            for words in ("RAY_AUTH_MODE=disabled", f"RAY_AUTH_TOKEN={WRONG}")
        ]
        if not all("REFUSED" in text for text in told):
            raise RuntimeError(f"{what} let somebody in: {told}")
        yield (
            f"{what} without and with a wrong token",
            " and ".join(text.split("REFUSED ")[1].split()[0] for text in told),
        )


def _status(cluster: Cluster, url: str, *headers: str) -> str:
    words = " ".join(f'"{header}"' for header in headers)
    told = cluster.ssh(cluster.head, f"venv/bin/python -c '{HTTP}' '{url}' {words}")
    return told.split("STATUS ")[1].split()[0]
