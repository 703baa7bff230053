"""What a cluster with token authentication refuses, seen from another host."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.hosts import searches
from tests.hosts.cluster import Cluster, listens
from tests.hosts.hosts import HOME, SHARED
from tests.hosts.limits import HostError

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
    print("JOINED", flush=True)
finally:
    os._exit(0)
"""

PING = """
import sys, grpc
from ray.core.generated import ray_client_pb2 as messages, ray_client_pb2_grpc
stub = ray_client_pb2_grpc.RayletDriverStub(grpc.insecure_channel(sys.argv[1]))
request = messages.ClusterInfoRequest(type=messages.ClusterInfoType.PING)
try:
    stub.ClusterInfo(request, metadata=[h.split("=") for h in sys.argv[2:]], timeout=10)
    print("STATUS OK")
except grpc.RpcError as error:
    print("STATUS", error.code().name)
"""

TOKEN = "$(cat .ray/auth_token)"
WRONG = "0123456789abcdef0123456789abcdef"
JOINS = {
    "RAY_AUTH_MODE=token": True,
    "RAY_AUTH_MODE=disabled": False,
    f"RAY_AUTH_TOKEN={WRONG}": False,
}
REFUSED = {"401", "403", "UNAUTHENTICATED", "PERMISSION_DENIED"}


def checks(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """Each attempt that must be refused, and the answer to it.

    Raises:
        HostError: one was not refused.
    """
    if listens(cluster.head, 8265):
        raise HostError("the dashboard listens on more than loopback")
    yield "dashboard from another host", "no answer: it is bound to loopback"
    for what, program, address in (
        ("dashboard", HTTP, "http://127.0.0.1:8265/nodes?view=summary"),
        ("job API", HTTP, "http://127.0.0.1:8265/api/jobs/"),
        ("Ray client", PING, f"{cluster.head.address}:10001"),
    ):
        key = "authorization=Bearer"
        answers = [
            _status(cluster, program, address, *header)
            for header in ([], [f"{key} {WRONG}"], [f"{key} {TOKEN}"])
        ]
        if answers[2] not in {"200", "OK"} or not set(answers[:2]) <= REFUSED:
            raise HostError(f"{what}: without, with a wrong and the right token: {answers}")
        yield f"{what} without and with a wrong token", " and ".join(answers[:2])
    for words, joined in JOINS.items():
        command = f"{words} timeout 15 venv/bin/python -c '{JOIN}' {cluster.head.address}:6379"
        answer = cluster.ssh(cluster.head, command, check=False)
        if ("JOINED" in answer) != joined or joined == ("Unauthenticated" in answer):
            raise HostError(f"GCS with {words}:\n{answer}")
    yield "GCS without and with a wrong token", "Unauthenticated and Unauthenticated"
    yield "storage that only the head sees", _unseen_storage(cluster)


def _unseen_storage(cluster: Cluster) -> str:
    """Launch into a folder that only the head has; returns the messages about the workers."""
    searches.write_space(cluster)
    words = f"--name unseen --storage {HOME}/runs --address auto --data-dir {SHARED}/mnist"
    printed = cluster.ssh(
        cluster.head,
        f"venv/bin/crnn-search launch {SHARED}/space.yaml {words}; echo CODE $?",
        timeout_s=120,
    )
    reasons = [line.strip() for line in printed.splitlines() if "it has no such folder" in line]
    left = list((cluster.head.files / "tmp/home/runs").glob("*"))
    if "CODE 2" not in printed or len(reasons) != len(cluster.workers) or left:
        raise HostError(f"{left} {printed}")
    return "refused: " + ", ".join(sorted(reasons))


def find_secrets(cluster: Cluster) -> str:
    """Look for the token in all files that the searches have written.

    Raises:
        HostError: it was found.
    """
    token = (cluster.client.files / "tmp/home/.ray/auth_token").read_bytes().strip()
    files = [path for path in (cluster.world.shared / "runs").rglob("*") if path.is_file()]
    files += cluster.log.parent.glob("*.log")
    found = [str(path) for path in files if token in path.read_bytes()]
    if found or not token:
        raise HostError(f"the token is in {found}")
    return f"not in the {len(files)} files of runs and logs"


def _status(cluster: Cluster, program: str, address: str, *headers: str) -> str:
    words = " ".join(f'"{header}"' for header in headers)
    printed = cluster.ssh(cluster.head, f"venv/bin/python -c '{program}' '{address}' {words}")
    status = re.search(r"STATUS (\S+)", printed)
    if status is None:
        raise HostError(f"{address} gave no answer:\n{printed}")
    return status[1]
