"""A data set must fit into half of the memory of each node that trains."""

from __future__ import annotations

import pytest

from crnn_search.cluster import data_size
from crnn_search.cluster.nodes import Node
from crnn_search.errors import InputError

HEAD = Node("h", "head", 0, 0, 2.0)
"""No trial runs there."""


def with_nodes(monkeypatch: pytest.MonkeyPatch, *alive: Node) -> None:
    monkeypatch.setattr(data_size, "nodes", lambda: list(alive))


def test_data_of_half_the_memory_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    with_nodes(monkeypatch, HEAD, Node("a", "a", 4, 0, 16.0), Node("b", "b", 4, 0, 0.0))
    data_size.check_memory(8_000_000_000)
    with_nodes(monkeypatch)
    data_size.check_memory(8_000_000_000)


def test_larger_data_are_refused_with_the_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    alive = [Node(name, name, 4, 0, memory) for name, memory in (("a", 16.0), ("b", 32), ("c", 9))]
    with_nodes(monkeypatch, HEAD, *alive)
    with pytest.raises(InputError) as caught:
        data_size.check_memory(8_040_000_000)
    assert str(caught.value) == (
        "a data set may have half of a node's memory at most, got 8.0 GB of images; half of the "
        "memory is on\n"
        "  a: 8.0 GB\n"
        "  c: 4.5 GB\n"
        "make the images smaller, as with task: {image: {size: [64, 64]}}, or use larger nodes"
    )
