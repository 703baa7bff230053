"""How far trials are within an epoch: they tell an actor each second, and the driver asks it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

EVERY_S = 1.0
"""How often a trial tells, and how often the driver asks."""

ANSWER_S = 10.0
"""How long the driver waits for an answer."""


class Board:
    """The actor: the epochs of each trial, the part of the running one included."""

    def __init__(self) -> None:
        self._epochs: dict[str, float] = {}

    def tell(self, name: str, epochs: float) -> None:
        """Take in how many epochs a trial has trained."""
        self._epochs[name] = epochs

    def read(self) -> dict[str, float]:
        """The epochs of each trial by name."""
        return self._epochs


class Teller:
    """Tells a board, without waiting for it. A call that comes too soon after the last is free."""

    def __init__(self, board: Any) -> None:
        """board: the actor's handle; None if nobody asks."""
        self._board = board
        self._told = 0.0

    def __call__(self, name: str, epochs: float) -> None:
        now = time.monotonic()
        if self._board is not None and now - self._told >= EVERY_S:
            self._told = now
            self._board.tell.remote(name, epochs)


@contextlib.contextmanager
def shown(show: Callable[[Mapping[str, float]], None]) -> Iterator[Any]:
    """A board on the driver's node, whose content is shown every second in this block."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    board = ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(EVERY_S):
            with contextlib.suppress(ray.exceptions.RayError):  # or of a slow board
                show(ray.get(board.read.remote(), timeout=ANSWER_S))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield board
    finally:
        ended.set()
        thread.join(EVERY_S)
        ray.kill(board)
