"""A real server that answers nothing for a while."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from crnn_search.storage.object_store import SLOW_S, ObjectStore
from tests.storage.s3_process import serve
from tests.waiting import wait


@pytest.mark.slow
def test_requests_wait_for_a_server_that_hangs(tmp_path: Path) -> None:
    messages: list[str] = []
    with serve(tmp_path / "log") as server:
        store = ObjectStore(server.uri, messages.append)
        writing = threading.Thread(target=store.write, args=["a", b"content"])
        with server.hanging():
            writing.start()
            wait(lambda: bool(messages), SLOW_S + 30, "no message")
        writing.join(30)
        assert store.read("a") == b"content"
    assert messages[0].startswith("storage: no answer from s3://bucket/runs/a?")
    assert messages[0].endswith("; trials wait, none is lost")
    assert messages[-1].startswith("storage: reachable again after ")
