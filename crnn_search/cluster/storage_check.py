"""Every node must see the run's storage before any trial starts."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from crnn_search.errors import RunFolderError, StorageError
from crnn_search.storage.object_store import ObjectStore, is_uri
from crnn_search.storage.run_folder import RunPaths


def why_unseen(place: str, name: str, content: bytes) -> str | None:
    """Why this machine cannot use a folder or an object store that holds a file, or None."""
    try:
        if is_uri(place):
            store = ObjectStore(place)
            found = store.read(name, patience_s=0)
            if found == content:
                mine = f".seen-{secrets.token_hex(4)}"
                store.write(mine, b"", patience_s=0)
                store.remove(mine, patience_s=0)
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
        return f"it cannot use it: {error}"
    return None if found == content else "it finds something else there"


STORAGE_CHECK_TIMEOUT_S = 120.0  # longer than Ray needs to know that a node is gone


def check_storage(run: RunPaths) -> None:
    """See that every node reads and writes the run's place, before any trial.

    Raises:
        RunFolderError: some do not.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]
    if len(alive) < 2 and not run.mirror:
        return
    place = run.location if run.mirror else str(run.root.absolute())
    answers = [
        ray.remote(why_unseen)
        .options(
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        )
        .remote(place, run.space.name, run.space.read_bytes())
        for node in alive
    ]
    reasons = [_answer(answer, node["NodeID"]) for answer, node in zip(answers, alive, strict=True)]
    blind = [
        f"  {node['NodeManagerHostname']}: {reason}"
        for node, reason in zip(alive, reasons, strict=True)
        if reason
    ]
    if blind:
        raise RunFolderError(
            f"every node must see the folder of runs, and these do not see {place}:\n"
            + "\n".join(blind)
            + "\ngive a folder that all of them mount at the same path, or s3://BUCKET/PREFIX, "
            "with --storage, and every node the right to use it"
        )


def _answer(answer: ray.ObjectRef, node: str) -> str | None:
    """What a node says of the folder; nothing if it has left meanwhile."""
    try:
        reason: str | None = ray.get(answer, timeout=STORAGE_CHECK_TIMEOUT_S)
    except ray.exceptions.GetTimeoutError:
        return f"it does not answer within {STORAGE_CHECK_TIMEOUT_S:.0f} s"
    except ray.exceptions.RayError as error:
        left = not any(other["Alive"] for other in ray.nodes() if other["NodeID"] == node)
        return None if left else f"it cannot look: {str(error).strip().splitlines()[0]}"
    return reason
