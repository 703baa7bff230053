"""A server in a thread of this process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from fastapi import FastAPI

from crnn_search.models.server import listen
from tests.waiting import wait


@contextlib.contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """Serve an application in this block, on a free port; gives its URL."""
    listening = listen.bind("127.0.0.1", 0)
    server = listen.server_of(app)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        wait(lambda: server.started, 30, "the server has not started", pause_s=0.01)
        yield listen.url_of(listening)
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
