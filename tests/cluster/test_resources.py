from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from crnn_search.cluster import connection, resources
from crnn_search.cluster.storage_check import why_unseen
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
        connection.connect(address),
    ):
        pass


def with_nodes(monkeypatch: pytest.MonkeyPatch, *nodes: tuple[float, float]) -> None:
    described: list[dict[str, Any]] = [{"cpus": cpus, "gpus": gpus} for cpus, gpus in nodes]
    monkeypatch.setattr(resources, "nodes", lambda: described)


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
    monkeypatch: pytest.MonkeyPatch, nodes: Any, asked: Any, expected: tuple[float, float, int]
) -> None:
    with_nodes(monkeypatch, *nodes)
    follows = asked[2] == "auto"
    assert resources.divide(*asked) == resources.Slots(*expected, follows)


def test_a_trial_that_fits_nowhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with_nodes(monkeypatch, (2, 0), (4, 0))
    with pytest.raises(InputError, match="no node has the 8 cores and 0 GPUs that one trial needs"):
        resources.divide(8, "auto", "auto")


def test_a_stated_number_is_what_a_cluster_may_grow_to(monkeypatch: pytest.MonkeyPatch) -> None:
    with_nodes(monkeypatch, (0, 0), (1, 0))
    assert resources.divide(1, "auto", 8, may_grow=True) == resources.Slots(1, 0.0, 8)
    assert resources.divide(1, 0.25, 8, may_grow=True) == resources.Slots(1, 0.25, 8)
    with pytest.raises(InputError, match=r"grow from nothing, say how far: --set search\.max_conc"):
        resources.divide(1, 0.25, "auto", may_grow=True)


def test_the_room_of_a_search_follows_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "ROOM_REFRESH_S", -1.0)
    with_nodes(monkeypatch, (0, 0), (1, 0))
    follows, fixed = (
        resources.Room(resources.divide(1, 0, "auto")),
        resources.Room(resources.Slots(1, 0, 2)),
    )
    assert (follows(), fixed()) == (1, 2)
    with_nodes(monkeypatch, (0, 0), (1, 0), (3, 0))
    assert (follows(), fixed()) == (4, 2)
    with_nodes(monkeypatch, (0, 0))
    assert follows() == 1, "one waits, so that an autoscaler sees it"


def test_a_node_tells_why_it_cannot_use_a_folder(tmp_path: Path) -> None:
    (tmp_path / "mark").write_text("this one")
    assert why_unseen(str(tmp_path), "mark", b"this one") is None
    assert why_unseen(str(tmp_path), "mark", b"other") == "it finds something else there"
    assert why_unseen(str(tmp_path / "gone"), "mark", b"") == "it has no such folder"
    assert [path.name for path in tmp_path.iterdir()] == ["mark"]
