"""A whole run in order: data, search, finalists, retraining, report, export."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crnn_search import cluster, export, mnist, report, retrain, search
from crnn_search.checkpoint import load_model
from crnn_search.data import Digits, SequenceTable, testing_table
from crnn_search.paths import ModelPaths, RunPaths, read_json, write_atomically, write_json
from crnn_search.predictor import FORMATS
from crnn_search.progress import Progress
from crnn_search.space import SearchSpace, to_yaml

PACKAGES = (
    "crnn-search", "ray", "optuna", "torch", "torchvision", "numpy", "onnx", "onnxruntime",
    "safetensors",
)  # fmt: skip
EXPORT_CHECK_SEQUENCES = 1000


def run(
    space: SearchSpace,
    paths: RunPaths,
    progress: Progress,
    *,
    address: str | None = None,
    data_dir: Path | None = None,
    verbose: bool = False,
) -> dict[str, Any]:
    """Do all that `crnn-search launch` does; returns the report.

    Raises:
        CrnnSearchError: see the exception tree in `errors`.
    """
    began = time.time()
    write_atomically(paths.space, to_yaml(space))
    progress.note("data: MNIST")
    digits = mnist.load(data_dir)
    seconds: dict[str, float] = {}
    with cluster.connect(address, verbose=verbose):
        resources = space.resources
        slots = cluster.divide(
            resources.cpus_per_trial, resources.gpus_per_trial, space.search.max_concurrent_trials
        )
        write_json(paths.manifest, manifest(space, paths))
        seconds["start"] = time.time() - began
        stage = _stopwatch(seconds)
        finalists = stage("search", lambda: search.run(space, paths, digits, slots, progress))
        config = stage(
            "finalists",
            lambda: retrain.choose(finalists, space, paths, digits, slots, progress),
        )
        stage("retrain", lambda: retrain.retrain(config, space, paths, digits, slots, progress))
    return finish(paths, progress, seconds, data_dir=data_dir)


def finish(
    paths: RunPaths,
    progress: Progress,
    seconds: dict[str, float],
    *,
    data_dir: Path | None = None,
) -> dict[str, Any]:
    """Score the retrained models on the test images, for the only time, and export the winner."""
    progress.close()
    retrained = read_json(paths.retrained)
    write_json(paths.retrained, retrained | {"seconds": seconds})
    progress.note("report: scoring the retrained networks on the test images")
    digits = mnist.load(data_dir, test_images=True)
    result = report.write_report(paths, digits)
    progress.note("export: " + ", ".join(FORMATS))
    export_winner(paths, FORMATS, digits)
    return result


def export_winner(paths: RunPaths, formats: tuple[str, ...], digits: Digits) -> dict[str, float]:
    """Write the winner of a run, of its first seed, to the run's `model/` folder.

    Returns the largest difference to PyTorch's sums of each format.
    """
    entry = read_json(paths.retrained)["winner"][0]
    model, config, info = load_model(paths.root / entry["file"])
    table = testing_table(digits.labels, info["max_digits"])
    first = SequenceTable(*(t[:EXPORT_CHECK_SEQUENCES] for t in vars(table).values()))
    return export.export(
        model, config, info, ModelPaths(paths.model), formats, digits.images, first
    )


def manifest(space: SearchSpace, paths: RunPaths) -> dict[str, Any]:
    """What is needed to repeat a run: command, versions, commit, seeds, data, hardware."""
    return {
        "name": paths.name,
        "command": " ".join(["crnn-search", *sys.argv[1:]]),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git_commit": _git_commit(),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "seed": space.search.seed,
        "hardware": {"nodes": cluster.nodes()},
        "data_sha256": mnist.FILES,
        "space": {
            "task": space.task.model_dump(),
            "search": space.search.model_dump(),
            "retrain": space.retrain.model_dump(),
            "resources": space.resources.model_dump(),
        },
    }


def _stopwatch(seconds: dict[str, float]) -> Callable[[str, Callable[[], Any]], Any]:
    def timed(name: str, work: Callable[[], Any]) -> Any:
        began = time.time()
        result = work()
        seconds[name] = time.time() - began
        return result

    return timed


def _git_commit() -> str | None:
    """The commit this package stands at, if run from a checkout; marked where files differ."""
    try:
        done = subprocess.run(
            [
                "git",
                "-C",
                str(Path(__file__).parent),
                "describe",
                "--always",
                "--abbrev=40",
                "--dirty",
            ],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
