"""The manifest: written, read again, and refused where it cannot be understood."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from crnn_search import __version__
from crnn_search.errors import InputError
from crnn_search.hyperparameters import Arithmetic
from crnn_search.pipeline.manifest import Manifest, RunBudget
from crnn_search.spaces.file import parse_space
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage.run_folder import RunFolder
from crnn_search.tuning.budget import Budget

NODE = {"name": "here", "cpus": 2.0, "gpus": 0.0, "memory_gb": 4.0, "cpu_model": None}
HARDWARE = {"nodes": [NODE], "gpu": None}


@pytest.fixture
def space() -> SearchSpace:
    return parse_space("search: {seed: 7}\nspace: {}")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def test_manifest_is_read_as_it_was_written(run: RunFolder, space: SearchSpace) -> None:
    manifest = Manifest.create(run, space, {}, Budget(time_s=3600.0), ["runs/earlier"])
    manifest.write(run)
    assert Manifest.read(run) == manifest
    complete = dataclasses.replace(
        manifest.on_cluster(space, HARDWARE, Arithmetic("bfloat16", cpu_kernels=True)),
        budget=RunBudget(Budget(gpu_seconds=1.0), Budget(2.0, 3.0, 4.0)),
        earlier_reports=[{"trials": 5, "rmse": 0.9, "rmse_interval": [0.8, 1.0]}],
    )
    complete.write(run)
    assert Manifest.read(run) == complete


def test_manifest_names_seed_versions_and_arithmetic(run: RunFolder, space: SearchSpace) -> None:
    manifest = Manifest.create(run, space, {})
    manifest.on_cluster(space, HARDWARE, Arithmetic("bfloat16")).write(run)
    written = json.loads(run.manifest.read_text())
    assert written["format"] == 3
    assert written["seed"] == 7
    assert written["versions"]["crnn-search"] == __version__
    assert written["arithmetic"] == {"precision": "bfloat16", "cpu_kernels": False}
    assert written["space"]["search"]["seed"] == 7
    assert written["budget"] == {
        "limits": {"time_s": None, "core_seconds": None, "gpu_seconds": None},
        "before": {"time_s": 0.0, "core_seconds": 0.0, "gpu_seconds": 0.0},
    }


def test_first_hardware_of_a_run_stays(run: RunFolder, space: SearchSpace) -> None:
    first = Manifest.create(run, space, {}).on_cluster(space, HARDWARE, Arithmetic())
    assert first.on_cluster(space, {"nodes": [], "gpu": None}, Arithmetic()).hardware == HARDWARE


@pytest.mark.parametrize("found", [None, 1, 2])
def test_other_format_is_refused(run: RunFolder, space: SearchSpace, found: int | None) -> None:
    Manifest.create(run, space, {}).write(run)
    values = json.loads(run.manifest.read_text())
    values |= {"format": found, "versions": {"crnn-search": "0.0.7"}}
    if found is None:
        del values["format"]
    run.manifest.write_text(json.dumps(values))
    message = rf"written by crnn-search 0\.0\.7, whose runs have format {found or 1} .* format 3: "
    with pytest.raises(InputError, match=message):
        Manifest.read(run)


@pytest.mark.parametrize(
    "change",
    [
        {"surprise": 1},
        {"budget": {"limits": 3}},
        {"budget": {"limits": {"time_s": "long"}}},
        {"arithmetic": {"precision": "x", "y": 1}},
        {"arithmetic": {"precision": "int16", "cpu_kernels": False}},
        {"name": 3},
        {"seed": "7"},
        {"versions": {"python": 3}},
        {"hardware": {"nodes": [{"name": "here"}]}},
        {"hardware": {"nodes": 3}},
        {"earlier_reports": [{"rmse": 1.0}]},
        {"space": {}},
        {"space": {"task": {"mnist_sums": {"max_digits": "many"}}}},
    ],
)
def test_altered_manifest_is_refused(
    run: RunFolder, space: SearchSpace, change: dict[str, object]
) -> None:
    Manifest.create(run, space, {}).write(run)
    run.manifest.write_text(json.dumps(json.loads(run.manifest.read_text()) | change))
    with pytest.raises(InputError, match="is not a manifest of this version of crnn-search"):
        Manifest.read(run)


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": 3}'])
def test_other_file_is_not_a_manifest(run: RunFolder, text: str) -> None:
    run.manifest.write_text(text)
    with pytest.raises(InputError, match="is not a manifest of this version of crnn-search"):
        Manifest.read(run)


def test_missing_manifest_is_refused(run: RunFolder) -> None:
    with pytest.raises(InputError, match=r"has no manifest\.json: .*; launch it again"):
        Manifest.read(run)
