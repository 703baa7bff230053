"""launch, resume and extend up to the search, with a cluster that is not there."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from crnn_search import api
from crnn_search.cli.display import PlainProgress
from crnn_search.cluster.resources import Allocation
from crnn_search.data.digits import Digits
from crnn_search.errors import InputError, InterruptedRun, RunFolderError
from crnn_search.hyperparameters import Arithmetic, TrialConfig
from crnn_search.pipeline import run as pipeline
from crnn_search.pipeline.manifest import Manifest
from crnn_search.spaces.file import load_space, parse_space
from crnn_search.storage.journal import Journal
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import Trial
from crnn_search.tuning.budget import Budget, Limit
from crnn_search.tuning.context import Context

SPACE = parse_space("search: {trials: 5}\nspace: {}")
RUN = "crnn_search.pipeline.run"
NO_DIGITS = Digits(torch.empty(0, 28, 28, dtype=torch.uint8), torch.empty(0, dtype=torch.uint8))
NODE = {"name": "here", "cpus": 2.0, "gpus": 0.0, "memory_gb": 4.0, "cpu_model": None}
KERNELS = Arithmetic("float32", cpu_kernels=True)


class SearchStartedError(Exception):
    """The pipeline came as far as the search."""

    def __init__(self, context: Context, limit: Limit) -> None:
        super().__init__("the search started")
        self.context, self.limit = context, limit


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[Allocation]:
    """A cluster of one node; the allocations for which its arithmetic was resolved."""
    allocations: list[Allocation] = []

    def resolve(_: Any, allocation: Allocation, __: Any) -> Arithmetic:
        allocations.append(allocation)
        return KERNELS

    def run_search(context: Context, limit: Limit) -> None:
        raise SearchStartedError(context, limit)

    monkeypatch.setattr("crnn_search.data.mnist.load", lambda *_, **__: NO_DIGITS)
    monkeypatch.setattr(f"{RUN}.data_size.check_memory", lambda _: None)
    monkeypatch.setattr(f"{RUN}.connection.connect", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(f"{RUN}.gpu_share.probe_gpu", lambda *_: None)
    monkeypatch.setattr(f"{RUN}.nodes.hardware", lambda: [NODE])
    monkeypatch.setattr(f"{RUN}.storage_check.check_storage", lambda _: None)
    monkeypatch.setattr(f"{RUN}.gpu_share.allocate", lambda *_, **__: Allocation(1.0, 0.0, 2))
    monkeypatch.setattr(f"{RUN}.resolve_arithmetic", resolve)
    monkeypatch.setattr("crnn_search.pipeline.budget_check.measure_pace", lambda *_: None)
    monkeypatch.setattr(f"{RUN}.search.run_search", run_search)
    return allocations


def until_search(work: Callable[..., Any], *arguments: Any, **more: Any) -> SearchStartedError:
    progress = PlainProgress(Console(quiet=True))
    with pytest.raises(SearchStartedError, match="the search started") as caught:
        work(*arguments, progress=progress, options=pipeline.Options(), **more)
    return caught.value


def test_arithmetic_is_resolved_once_and_recorded(run: RunFolder, probed: list[Allocation]) -> None:
    assert until_search(pipeline.launch, SPACE, run).context.arithmetic == KERNELS
    assert Manifest.read(run).arithmetic == KERNELS
    assert until_search(pipeline.resume, run).context.arithmetic == KERNELS
    assert probed == [Allocation(1.0, 0.0, 2)]


def test_manifest_is_there_before_the_cluster(
    monkeypatch: pytest.MonkeyPatch, run: RunFolder, probed: list[Allocation]
) -> None:
    def no_cluster(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    progress = PlainProgress(Console(quiet=True))
    with monkeypatch.context() as patch:
        patch.setattr(f"{RUN}.connection.connect", no_cluster)
        with pytest.raises(InterruptedRun, match=f"crnn-search resume {run.root}$"):
            pipeline.launch(SPACE, run, progress, pipeline.Options(), budget=Budget(time_s=9e9))
    assert Manifest.read(run).hardware is None
    started = until_search(pipeline.resume, run)
    assert started.limit.budget == Budget(time_s=9e9), "an early interruption keeps the budget"
    assert Manifest.read(run).hardware == {"nodes": [NODE], "gpu": None}


def test_extension_records_the_report_and_adds_trials(
    run: RunFolder, probed: list[Allocation]
) -> None:
    until_search(pipeline.launch, SPACE, run)
    report = {"test": {"rmse": 0.9, "rmse_interval": [0.8, 1.0], "images": 10_000}}
    run.report_json.write_text(json.dumps(report))
    for path in (run.finalists, run.best, run.retrained):
        path.write_text("{}")
    started = until_search(pipeline.extend, run, 3, budget=Budget(core_seconds=5.0))
    assert started.context.space.search.trials == 8
    assert load_space(run.space) == dataclasses.replace(SPACE, search=started.context.space.search)
    assert started.limit.budget == Budget(core_seconds=5.0)
    manifest = Manifest.read(run)
    assert manifest.earlier_reports == [{"rmse": 0.9, "rmse_interval": [0.8, 1.0], "trials": 5}]
    assert manifest.space["search"]["trials"] == 8
    assert not any(p.exists() for p in (run.report_json, run.finalists, run.best, run.retrained))


def test_extend_refuses_the_run_of_another_user(
    run: RunFolder, probed: list[Allocation], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files decide what is trained."""
    until_search(pipeline.launch, SPACE, run)
    monkeypatch.setattr("os.geteuid", lambda: run.root.stat().st_uid + 1)
    with pytest.raises(RunFolderError, match=r"belongs to user .*; if you do trust .* --force"):
        api.extend(run.root, 2)
    assert "extension" not in run.journal.read_text()
    with pytest.raises(SearchStartedError, match="the search started") as caught:
        api.extend(run.root, 2, force=True)
    assert caught.value.context.space.search.trials == 7


def test_a_space_that_was_altered_is_refused(run: RunFolder, probed: list[Allocation]) -> None:
    until_search(pipeline.launch, SPACE, run)
    log = Journal(run, 60.0)  # later than the lines of the launch
    config = TrialConfig.from_dict({"dropout": 0.5})
    trial = Trial("trial-0000", 0, config, 0, 3, 1, 10, "mnist_sums/8")
    log.write("trial", stage="search", trial=trial.to_dict())
    progress = PlainProgress(Console(quiet=True))
    message = r"trial-0000 of .*journal.jsonl is not in the space of .*space.yaml.*: dropout: must"
    with pytest.raises(InputError, match=message):
        pipeline.resume(run, progress, pipeline.Options())
