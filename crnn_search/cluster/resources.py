"""How trials share the cluster's cores and GPUs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from crnn_search.cluster.nodes import Node, nodes
from crnn_search.errors import InputError

AUTO_GPU_FRACTION = 0.25
"""Share of a GPU that a trial gets if none could be measured."""

CAPACITY_REFRESH_S = 2.0
UNITS = 10_000
"""Of a resource: the smallest amount that Ray knows is one ten-thousandth."""


@dataclass(frozen=True)
class Allocation:
    """How trials share the cluster: what each gets, and how many may run at once.

    elastic: whether that many changes as nodes join and leave.
    """

    cpus: float
    gpus: float
    concurrent: int
    elastic: bool = False


class Capacity:
    """How many trials of a search may run at once, on the nodes that are alive now.

    It is never 0: where no node is left, one trial waits, and an autoscaler sees that it does.
    """

    def __init__(self, allocation: Allocation) -> None:
        self._allocation = allocation
        self._known = allocation.concurrent
        self._read = time.monotonic()

    def __call__(self) -> int:
        if self._allocation.elastic and time.monotonic() - self._read > CAPACITY_REFRESH_S:
            self._known = max(
                1, count_fitting(nodes(), self._allocation.cpus, self._allocation.gpus)
            )
            self._read = time.monotonic()
        return self._known


def allocate(
    cpus_per_trial: float,
    gpus_per_trial: float | str,
    max_concurrent: int | str,
    *,
    may_grow: bool = False,
) -> Allocation:
    """Allocate the cluster's nodes to trials.

    gpus_per_trial: `auto` is a quarter of a GPU where there is one; `probe_gpu` measures better.
    max_concurrent: `auto` for as many as the nodes hold, also those that join later; a number is
        what may run or wait at most, so that a cluster that `may_grow` grows to hold them.

    Raises:
        InputError: no node has what one trial needs.
    """
    alive = nodes()
    gpus = gpus_per_trial
    if isinstance(gpus, str):
        gpus = AUTO_GPU_FRACTION if any(node.gpus for node in alive) else 0.0
    fitting = count_fitting(alive, cpus_per_trial, gpus)
    if isinstance(max_concurrent, int) and may_grow:
        return Allocation(cpus_per_trial, float(gpus), max_concurrent)
    if not fitting:
        raise InputError(
            f"no node has the {cpus_per_trial:g} cores and {gpus:g} GPUs that one trial needs; the "
            "nodes have "
            + ", ".join(f"{node.cpus:g} cores and {node.gpus:g} GPUs" for node in alive)
            + _GROWING * may_grow
        )
    if isinstance(max_concurrent, int):
        return Allocation(cpus_per_trial, float(gpus), min(fitting, max_concurrent))
    return Allocation(cpus_per_trial, float(gpus), fitting, elastic=True)


_GROWING = (
    "; to have a cluster grow from nothing, say how far: --set search.max_concurrent_trials=N"
)


def count_fitting(alive: Sequence[Node], cpus: float, gpus: float) -> int:
    """How many trials the nodes hold at once; a share of a GPU is one of a single GPU."""
    return sum(_count_on(node, cpus, gpus) for node in alive)


def _count_on(node: Node, cpus: float, gpus: float) -> int:
    by_cpus = _units(node.cpus) // _units(cpus)
    if not gpus:
        return by_cpus
    if gpus < 1:
        return min(by_cpus, int(node.gpus) * (UNITS // _units(gpus)))
    return min(by_cpus, _units(node.gpus) // _units(gpus))


def _units(amount: float) -> int:
    """An amount of a resource as Ray counts it, in ten-thousandths."""
    return max(1, round(amount * UNITS))
