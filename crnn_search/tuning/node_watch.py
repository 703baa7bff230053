"""Ends a stage whose cluster has no living node left: Ray Tune would wait for one for ever."""

from __future__ import annotations

import time
from typing import Any

from ray.tune import Callback

from crnn_search.cluster.nodes import nodes
from crnn_search.errors import RunError

CHECK_S = 5.0
NO_NODE_S = 60.0
"""How long a cluster may be without a living node."""


class NodeWatch(Callback):  # type: ignore[misc]
    """Looks for living nodes while trials run. error: what has ended the stage, or None."""

    def __init__(self, resume_command: str) -> None:
        self.error: RunError | None = None
        self._resume_command = resume_command
        self._checked = self._alive = time.monotonic()

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Raise `error` if no node has been alive for `NO_NODE_S`; here Tune passes it on."""
        now = time.monotonic()
        if now - self._checked < CHECK_S:
            return
        self._checked = now
        if nodes():
            self._alive = now
        elif now - self._alive > NO_NODE_S:
            self.error = RunError(
                f"no node of the cluster has been alive for {NO_NODE_S:.0f} s; everything so far "
                f"is kept; continue with\n  {self._resume_command}"
            )
            raise self.error
