"""A data set has to fit into the memory of each node that trains."""

from __future__ import annotations

from crnn_search.cluster.nodes import nodes
from crnn_search.errors import InputError

SHARE = 0.5
"""Of a node's memory. The node holds the images once, for all its workers; the one with the cache
has its file of them in memory, too."""


def check_memory(size: int) -> None:
    """Check that a data set fits into the memory of every node with cores, as Ray counts it.

    size: of its images, bytes.

    Raises:
        InputError: it is larger than half of it on some nodes.
    """
    small = [
        f"{node.name}: {SHARE * node.memory_gb:.1f} GB"
        for node in nodes()
        if node.cpus and 0 < SHARE * node.memory_gb < size / 1e9
    ]
    if small:
        raise InputError(
            "a data set may have half of a node's memory at most, got "
            f"{size / 1e9:.1f} GB of images; half of the memory is on\n  "
            + "\n  ".join(small)
            + "\nmake the images smaller, as with task: {image: {size: [64, 64]}}, or use larger "
            "nodes"
        )
