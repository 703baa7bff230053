"""An S3 server in a process of its own, which can be made to hang."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from tests.waiting import wait

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass(frozen=True)
class Server:
    """A server, and the URI of a folder of runs in its bucket."""

    process: subprocess.Popen[bytes]
    uri: str

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """A block in which nothing is answered."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def serve(log: Path, threaded: bool = True) -> Iterator[Server]:
    """Start a server that prints to `log`; this process and its children may use it.

    threaded: answer several requests at a time. moto checks the condition of a write before it
    writes, without a lock: only one thread makes that atomic, as it is in S3.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = (
        "from moto.server import DomainDispatcherApplication, create_backend_app\n"
        "from werkzeug.serving import run_simple\n"
        "app = DomainDispatcherApplication(create_backend_app)\n"
        f"run_simple('127.0.0.1', {port}, app, threaded={threaded})"
    )
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-c", program], stdout=output, stderr=output)
    try:
        with mock.patch.dict(os.environ, CREDENTIALS):
            wait(
                lambda: _answers(port), 60, lambda: f"the server does not start:\n{log.read_text()}"
            )
            bucket = urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT")
            urllib.request.urlopen(bucket, timeout=30).close()
            options = f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
            yield Server(process, f"s3://bucket/runs?{options}")
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(5)
        return not client.connect_ex(("127.0.0.1", port))
