"""report and export: what is not ready is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crnn_search.data.task import Task
from crnn_search.pipeline.manifest import Manifest
from crnn_search.pipeline.source import digests, open_source
from crnn_search.spaces.file import parse_space
from crnn_search.storage import stages
from crnn_search.storage.cache import CACHE_VARIABLE
from crnn_search.storage.files import write_json
from crnn_search.storage.run_folder import RunFolder
from tests.cli.conftest import SPACE, CommandLine


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run that was launched, in a folder with a space in its name."""
    run = RunFolder(tmp_path / "my run")
    run.root.mkdir()
    run.space.write_text(SPACE)
    Manifest.create(run, parse_space(SPACE), {}).write(run)
    return run


def retrained(run: RunFolder) -> None:
    """Let the run be retrained, with a model that is none."""
    model = run.retrained_models / "seed-0.safetensors"
    model.parent.mkdir()
    for path in (run.best, run.retrained, model):
        write_json(path, {})
    stages.record(run, stages.FINALISTS, [run.best])
    stages.record(run, stages.RETRAIN, [run.retrained, model])


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run on a user's own data, which are in no cache, that was retrained."""
    data = tmp_path / "clips.npz"
    images = np.random.default_rng(0).integers(256, size=(10, 2, 8, 8), dtype=np.uint8)
    split = np.array(["train"] * 6 + ["validation"] * 2 + ["test"] * 2)
    np.savez(data, images=images, targets=np.arange(10.0), split=split)
    text = f"task: {{data: {data}, unit: mm}}\n{SPACE}"
    run = RunFolder(tmp_path / "own")
    run.root.mkdir()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    sha256 = digests(open_source(parse_space(text).task))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "another cache"))
    run.space.write_text(text)
    Manifest.create(run, parse_space(text), sha256).write(run)
    retrained(run)
    return run


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    """The tasks that reports and exports are made of."""
    tasks: list[Task] = []

    def write_report(run: RunFolder, task: Task) -> str:
        tasks.append(task)
        return "nothing"

    def export_winner(
        run: RunFolder, formats: Sequence[str], task: Task, metrics: object
    ) -> dict[str, float]:
        tasks.append(task)
        return {}

    monkeypatch.setattr("crnn_search.results.report.write_report", write_report)
    monkeypatch.setattr("crnn_search.results.summary.summary", lambda report: report)
    monkeypatch.setattr("crnn_search.models.export.export_winner", export_winner)
    return tasks


@pytest.mark.parametrize("command", ["report", "export"])
def test_report_and_export_read_the_data_of_the_run(
    crnn_search: CommandLine, own: RunFolder, used: list[Task], command: str
) -> None:
    assert crnn_search(command, str(own.root)).code == 0
    (task,) = used
    assert (task.info.name, task.info.unit, task.info.longest) == ("clips", "mm", 2)
    assert task.testing_table().targets.tolist() == [8.0, 9.0]
    assert task.images[task.testing_table().indices.long()].shape == (2, 2, 1, 8, 8)


@pytest.mark.parametrize("command", ["report", "export"])
def test_report_and_export_refuse_other_data(
    crnn_search: CommandLine, own: RunFolder, used: list[Task], command: str
) -> None:
    data = own.root.parent / "clips.npz"
    np.savez(data, images=np.zeros((10, 2, 8, 8), np.uint8), targets=np.arange(10.0))
    done = crnn_search(command, str(own.root))
    assert done.code == 2
    assert f"the data in {data} are not those that the run was launched with" in done.err
    assert not used


def test_run_without_retraining_is_not_exported(crnn_search: CommandLine, run: RunFolder) -> None:
    done = crnn_search("export", str(run.root))
    assert done.code == 2
    assert "has no retrained.json: its winner has not been retrained yet" in done.err


def test_report_of_an_unfinished_run_says_so(crnn_search: CommandLine, run: RunFolder) -> None:
    done = crnn_search("report", str(run.root))
    assert done.code == 0
    assert f"{run.root} is not finished: its report has what is known so far" in done.out
    assert "**This run is not finished: it is searching" in run.report_markdown.read_text()
    assert not run.report_json.exists()
    done = crnn_search("report", str(run.root), "--rescore")
    assert done.code == 2
    assert "--rescore needs a retrained winner" in done.err


def test_compare_needs_two_runs(crnn_search: CommandLine, run: RunFolder) -> None:
    done = crnn_search("compare", str(run.root))
    assert done.code == 2
    assert "compare needs two runs at least, got 1" in done.err


def test_compare_of_runs_that_have_just_started(
    crnn_search: CommandLine, run: RunFolder, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    done = crnn_search("compare", str(run.root), str(run.root), "--html", str(page))
    assert done.code == 0, done.err
    assert "Nothing: their spaces and winners are the same." in done.out
    assert "Left out: fewer than two runs are finished." in done.out
    assert page.is_file()
    done = crnn_search("compare", *[str(run.root)] * 2, "--html", str(tmp_path / "no" / "a.html"))
    assert done.code == 2
    assert "--html must be in a folder that exists" in done.err


@pytest.mark.parametrize("command", ["report", "export"])
def test_missing_model_is_named_with_a_remedy(
    crnn_search: CommandLine, run: RunFolder, command: str
) -> None:
    retrained(run)
    (run.retrained_models / "seed-0.safetensors").unlink()
    done = crnn_search(command, str(run.root))
    assert done.code == 2
    assert f"a model is missing in {run.root}/retrained" in done.err
    assert done.err.endswith(f"crnn-search resume '{run.root}'\n")


def test_missing_model_in_a_bucket_is_named_by_the_bucket(
    monkeypatch: pytest.MonkeyPatch, crnn_search: CommandLine, run: RunFolder
) -> None:
    class Mirror:
        uri = "s3://bucket/demo?region=eu-central-1"

        def has(self, _: str) -> bool:
            return False

    mirror: Any = Mirror()
    mirrored = RunFolder(run.root, mirror)
    run.retrained.write_text("{}")
    monkeypatch.setattr("crnn_search.storage.runs.open_run", lambda _: mirrored)
    done = crnn_search("report", Mirror.uri)
    assert done.code == 2
    assert "missing in s3://bucket/demo/retrained?region=eu-central-1" in done.err
    assert done.err.endswith(f"crnn-search resume '{Mirror.uri}'\n")
    assert str(run.root) not in done.err


def test_unknown_format_is_refused(crnn_search: CommandLine, run: RunFolder) -> None:
    retrained(run)
    done = crnn_search("export", str(run.root), "--format", "pickle")
    assert done.code == 2
    assert "--format must be one of safetensors, onnx" in done.err
    assert "got 'pickle'" in done.err
