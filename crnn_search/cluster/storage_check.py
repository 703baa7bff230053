"""Every node must see the run's storage before any trial starts."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path

from crnn_search.cluster.nodes import NoResult, nodes, run_on_nodes
from crnn_search.errors import RunFolderError, StorageError
from crnn_search.storage.location import is_uri
from crnn_search.storage.object_store import ObjectStore
from crnn_search.storage.run_folder import RunFolder

STORAGE_CHECK_TIMEOUT_S = 120.0
"""Longer than Ray needs to know that a node is gone."""


def why_unusable(place: str, name: str, content: bytes) -> str | None:
    """Why this machine cannot use a folder or an object store that holds a file, or None."""
    try:
        if is_uri(place):
            store = ObjectStore(place, retry_for_s=0)
            found = store.read(name)
            if found == content:
                mine = f".seen-{secrets.token_hex(4)}"
                store.write(mine, b"")
                store.remove(mine)
        else:
            found = (Path(place) / name).read_bytes()
            if found == content:
                with tempfile.NamedTemporaryFile(dir=place, prefix=".seen-"):
                    pass
    except FileNotFoundError:
        return "it has no such folder"
    except OSError as error:
        return f"it cannot use it: {error.strerror}"
    except StorageError as error:
        return f"it cannot use it: {error.reason}"
    return None if found == content else "it finds another file there"


def check_storage(run: RunFolder) -> None:
    """See that every node reads and writes the run's location, before any trial.

    Raises:
        RunFolderError: some nodes cannot.
    """
    alive = nodes()
    if len(alive) < 2 and not run.mirror:
        return
    place = run.location if run.mirror else str(run.root.absolute())
    arguments = (place, run.space.name, run.space.read_bytes())
    answers = run_on_nodes(alive, why_unusable, *arguments, timeout_s=STORAGE_CHECK_TIMEOUT_S)
    problems = [
        f"  {node.name}: {answer.reason if isinstance(answer, NoResult) else answer}"
        for node, answer in answers
        if answer is not None
    ]
    if problems:
        raise RunFolderError(
            f"every node must read and write the folder of runs, and these cannot use {place}:\n"
            + "\n".join(problems)
            + "\ngive a folder that all of them mount at the same path, or s3://BUCKET/PREFIX, "
            "with --storage, and every node the right to use it"
        )
