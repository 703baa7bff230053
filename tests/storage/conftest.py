"""A small S3 server in this process, for tests of runs in an object store."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator

import pytest
from moto.server import ThreadedMotoServer

from crnn_search.storage import store_lease


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a folder of runs in an empty bucket."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for method, path in (("POST", "moto-api/reset"), ("PUT", "bucket")):
        request = urllib.request.Request(f"http://{s3_server}/{path}", method=method)
        urllib.request.urlopen(request, timeout=30).close()
    return f"s3://bucket/runs?endpoint_override={s3_server}&scheme=http&region=us-east-1"


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease in an object store that is stale after 1.5 s."""
    lengths = {"HEARTBEAT_S": 0.1, "VALID_S": 0.3, "STALE_S": 1.5, "LOOK_S": 1.0}
    for name, seconds in lengths.items():
        monkeypatch.setattr(store_lease, name, seconds)
