from __future__ import annotations

import socket
from typing import Any

import pytest

from crnn_search import cluster
from crnn_search.errors import InputError


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nobody_listens_is_refused_at_once(scheme: str) -> None:
    address = f"{scheme}127.0.0.1:{free_port()}"
    with (
        pytest.raises(InputError, match=f"nothing answers at {address}: .*leave --address out"),
        cluster.connect(address),
    ):
        pass


def with_nodes(monkeypatch: pytest.MonkeyPatch, *nodes: tuple[float, float]) -> None:
    described: list[dict[str, Any]] = [{"cpus": cpus, "gpus": gpus} for cpus, gpus in nodes]
    monkeypatch.setattr(cluster, "nodes", lambda: described)


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
    ],
)
def test_resources_are_divided(
    monkeypatch: pytest.MonkeyPatch, nodes: Any, asked: Any, expected: Any
) -> None:
    with_nodes(monkeypatch, *nodes)
    assert cluster.divide(*asked) == cluster.Slots(*expected)


def test_a_trial_that_fits_nowhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with_nodes(monkeypatch, (2, 0), (4, 0))
    with pytest.raises(InputError, match="no node has the 8 cores and 0 GPUs that one trial needs"):
        cluster.divide(8, "auto", "auto")
