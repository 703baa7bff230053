"""The manifest: what is needed to repeat a run."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import sys
from collections.abc import Sequence
from typing import Any

from crnn_search import __version__
from crnn_search.cluster.provenance import git_commit
from crnn_search.data import mnist
from crnn_search.pipeline import search
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage.journal import History
from crnn_search.storage.run_folder import RunPaths
from crnn_search.tuning.budget import Budget

PACKAGES = (
    "ray", "optuna", "torch", "torchvision", "numpy", "onnx", "onnxruntime",
    "safetensors",
)  # fmt: skip


UNLIMITED = Budget()


def manifest(
    space: SearchSpace,
    paths: RunPaths,
    budget: Budget = UNLIMITED,
    warm_runs: Sequence[str] = (),
) -> dict[str, Any]:
    """What is needed to repeat a run: command, versions, commit, seeds, data, hardware.

    The hardware is known only when there is a cluster.
    """
    return {
        "name": paths.name,
        "command": " ".join(["crnn-search", *sys.argv[1:]]),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "versions": {"python": platform.python_version(), "crnn-search": __version__}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "seed": space.search.seed,
        "hardware": None,
        "data_sha256": mnist.FILES,
        "budget": _budget_from(budget, History({}, {})),
        "warm_start": list(warm_runs),
        "space": _sections(space),
    }


def _sections(space: SearchSpace) -> dict[str, Any]:
    names = ("task", "search", "retrain", "resources")
    return {name: getattr(space, name).model_dump() for name in names}


def _budget_from(budget: Budget, history: History) -> dict[str, Any]:
    """A budget as the manifest keeps it: its limits, and what was used before it counts."""
    records = history.records(search.STAGE).values()
    before = Budget(
        history.elapsed_s,
        sum(record.core_seconds for record in records),
        sum(record.gpu_seconds for record in records),
    )
    return {"limits": budget.to_dict(), "before": before.to_dict()}
