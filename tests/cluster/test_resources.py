from __future__ import annotations

import socket
from typing import Any

import pytest

from crnn_search.cluster import connection, resources
from crnn_search.cluster.nodes import Node
from crnn_search.errors import InputError


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_address_without_a_cluster_is_refused_at_once(scheme: str) -> None:
    address = f"{scheme}127.0.0.1:{free_port()}"
    with (
        pytest.raises(InputError, match=f"nothing answers at {address}: .*leave --address out"),
        connection.connect(address),
    ):
        pass


def with_nodes(monkeypatch: pytest.MonkeyPatch, *nodes: tuple[float, float]) -> None:
    """A cluster of nodes with these cores and GPUs."""
    alive = [Node("id", "name", cpus, gpus, 8.0) for cpus, gpus in nodes]
    monkeypatch.setattr(resources, "nodes", lambda: alive)


@pytest.mark.parametrize(
    ("nodes", "asked", "expected"),
    [
        ([(2, 0)], (1, "auto", "auto"), (1, 0.0, 2)),
        ([(1, 0), (3, 0)], (1, "auto", "auto"), (1, 0.0, 4)),
        ([(3, 0)], (2, "auto", "auto"), (2, 0.0, 1)),
        ([(0, 0), (8, 1)], (1, "auto", "auto"), (1, 0.25, 4)),
        ([(2, 1)], (1, "auto", "auto"), (1, 0.25, 2)),
        ([(8, 2)], (1, 0.5, "auto"), (1, 0.5, 4)),
        ([(8, 2)], (1, 0, "auto"), (1, 0.0, 8)),
        ([(8, 0)], (1, "auto", 3), (1, 0.0, 3)),
        ([(8, 2)], (1, 0.6, "auto"), (1, 0.6, 2)),  # a share is one of a single GPU
        ([(8, 5)], (1, 0.4, "auto"), (1, 0.4, 8)),
        ([(64, 4)], (1, 0.3333, "auto"), (1, 0.3333, 12)),
        ([(8, 5)], (1, 2, "auto"), (1, 2.0, 2)),
        ([(8, 3)], (1, 1, "auto"), (1, 1.0, 3)),
        ([(1, 0)], (0.1, 0, "auto"), (0.1, 0.0, 10)),
        ([(1.2, 0)], (0.4, 0, "auto"), (0.4, 0.0, 3)),  # 1.2 / 0.4 is less than 3
    ],
)
def test_nodes_are_allocated_to_trials(
    monkeypatch: pytest.MonkeyPatch, nodes: Any, asked: Any, expected: tuple[float, float, int]
) -> None:
    with_nodes(monkeypatch, *nodes)
    elastic = asked[2] == "auto"
    assert resources.allocate(*asked) == resources.Allocation(*expected, elastic)


def test_trial_that_fits_no_node_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with_nodes(monkeypatch, (2, 0), (4, 0))
    with pytest.raises(InputError, match="no node has the 8 cores and 0 GPUs that one trial needs"):
        resources.allocate(8, "auto", "auto")


def test_stated_number_is_what_a_cluster_may_grow_to(monkeypatch: pytest.MonkeyPatch) -> None:
    with_nodes(monkeypatch, (0, 0), (1, 0))
    assert resources.allocate(1, "auto", 8, may_grow=True) == resources.Allocation(1, 0.0, 8)
    assert resources.allocate(1, 0.25, 8, may_grow=True) == resources.Allocation(1, 0.25, 8)
    with pytest.raises(InputError, match=r"grow from nothing, say how far: --set search\.max_conc"):
        resources.allocate(1, 0.25, "auto", may_grow=True)


def test_capacity_follows_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "CAPACITY_REFRESH_S", -1.0)
    with_nodes(monkeypatch, (0, 0), (1, 0))
    elastic, fixed = (
        resources.Capacity(resources.allocate(1, 0, "auto")),
        resources.Capacity(resources.Allocation(1, 0, 2)),
    )
    assert (elastic(), fixed()) == (1, 2)
    with_nodes(monkeypatch, (0, 0), (1, 0), (3, 0))
    assert (elastic(), fixed()) == (4, 2)
    with_nodes(monkeypatch, (0, 0))
    assert elastic() == 1, "one waits, so that an autoscaler sees it"
