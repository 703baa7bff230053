"""Ends a stage whose cluster has no living node left: Ray would wait for one for ever."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import TracebackType
from typing import Self

import ray

from crnn_search.cluster.nodes import nodes
from crnn_search.errors import RunError

CHECK_S = 5.0
NO_NODE_S = 60.0
"""How long a cluster may be without a living node."""

GRACE_S = 20.0
"""How long Ray may take to let go of the main thread, before the process is ended."""


class NodeWatch:
    """Looks for living nodes in a thread, in a `with` block.

    If none has been alive for `NO_NODE_S`, sets `error` and interrupts the main thread, which
    raises it; where that thread waits for Ray and does not return, prints it and ends the process.
    """

    def __init__(self, resume_command: str) -> None:
        self.error: RunError | None = None
        self._resume_command = resume_command
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()

    def _watch(self) -> None:
        alive = time.monotonic()
        while not self._ended.wait(CHECK_S):
            if nodes():
                alive = time.monotonic()
            elif time.monotonic() - alive > NO_NODE_S:
                self._interrupt()
                return

    def _interrupt(self) -> None:
        self.error = RunError(
            f"no node of the cluster has been alive for {NO_NODE_S:.0f} s; everything so far is "
            f"kept; continue with\n  {self._resume_command}"
        )
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(GRACE_S)
        if ray.is_initialized():  # in the main thread, or where it disconnects
            os.write(2, f"error: {self.error}\n".encode())
            os._exit(self.error.exit_code)
