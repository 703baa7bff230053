"""How trials share the cluster's cores and GPUs."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from crnn_search.cluster.connection import nodes
from crnn_search.errors import InputError

AUTO_GPU_FRACTION = 0.25


ROOM_REFRESH_S = 2.0


@dataclass(frozen=True)
class Slots:
    """How trials share the cluster: what each gets, and how many may run at once.

    follows: whether that many changes as nodes join and leave.
    """

    cpus: float
    gpus: float
    concurrent: int
    follows: bool = False


class Room:
    """How many trials of a search may run at once, as the cluster is just now.

    It is never 0: where no node is left, one trial waits, and an autoscaler sees that it does.
    """

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._known = slots.concurrent
        self._read = time.monotonic()

    def __call__(self) -> int:
        if self._slots.follows and time.monotonic() - self._read > ROOM_REFRESH_S:
            self._known = max(1, _fitting(nodes(), self._slots.cpus, self._slots.gpus))
            self._read = time.monotonic()
        return self._known


def divide(
    cpus_per_trial: float,
    gpus_per_trial: float | str,
    max_concurrent: int | str,
    *,
    may_grow: bool = False,
) -> Slots:
    """Divide the cluster's nodes among trials.

    gpus_per_trial: `auto` is a quarter of a GPU where there is one; see `read_gpu` for better.
    max_concurrent: `auto` for as many as the nodes hold, also those that join later; a number is
        what may run or wait at most, so that a cluster that `may_grow` grows to hold them.

    Raises:
        InputError: no node has what one trial needs.
    """
    alive = nodes()
    gpus = gpus_per_trial
    if isinstance(gpus, str):
        gpus = AUTO_GPU_FRACTION if any(node["gpus"] for node in alive) else 0.0
    fitting = _fitting(alive, cpus_per_trial, gpus)
    if isinstance(max_concurrent, int) and may_grow:
        return Slots(cpus_per_trial, float(gpus), max_concurrent)
    if not fitting:
        raise InputError(
            f"no node has the {cpus_per_trial:g} cores and {gpus:g} GPUs that one trial needs; the "
            "nodes have "
            + ", ".join(f"{node['cpus']:g} cores and {node['gpus']:g} GPUs" for node in alive)
            + _GROWING * may_grow
        )
    if isinstance(max_concurrent, int):
        return Slots(cpus_per_trial, float(gpus), min(fitting, max_concurrent))
    return Slots(cpus_per_trial, float(gpus), fitting, follows=True)


_GROWING = (
    "; to have a cluster grow from nothing, say how far: --set search.max_concurrent_trials=N"
)


def _fitting(alive: Sequence[dict[str, Any]], cpus: float, gpus: float) -> int:
    """How many trials the nodes hold at once."""
    return sum(
        math.floor(min(node["cpus"] / cpus, node["gpus"] / gpus if gpus else math.inf))
        for node in alive
    )
