"""A crash at every change of a file, from the first trial to the end of export and in `extend`.

A process that ended during export once left a run that counted as finished, and one
that ended in `extend` could lose the request for more trials.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crnn_search.data.digits import Digits
from crnn_search.pipeline import run as pipeline
from crnn_search.storage import stages
from crnn_search.storage.journal import read_history
from crnn_search.storage.run_folder import RunFolder
from tests.pipeline.small_pipeline import Recorder, no_cluster, results, work

PARTS = 3
"""Tests that share the points of a crash, so that several processes can run them."""


@pytest.fixture
def without_cluster(digits: Digits, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("os.fsync", lambda handle: None)
    with no_cluster(digits):
        yield


def launched(folder: Path) -> tuple[Recorder, dict[str, Any]]:
    """A run that is launched without a crash; what crashes would have left, and its results."""
    run = RunFolder(folder / "demo")
    run.root.mkdir(parents=True)
    recorder = Recorder(run.root, folder / "launch")
    with recorder.recording():
        work(pipeline.launch, run)
    return recorder, results(run)


def extended(folder: Path) -> tuple[Recorder, dict[str, Any]]:
    """A finished run that is extended without a crash; as `launched`."""
    run = RunFolder(folder / "demo")
    run.root.mkdir(parents=True)
    work(pipeline.launch, run)
    recorder = Recorder(run.root, folder / "extend")
    with recorder.recording():
        work(pipeline.extend, run, 2)
    return recorder, results(run)


def test_a_finished_run_has_every_file(tmp_path: Path, without_cluster: None) -> None:
    recorder, found = launched(tmp_path)
    assert {trial["state"] for trial in found["ledger"]} >= {"COMPLETE", "PRUNED"}
    assert {
        "model/README.md", "model/config.json", "model/model.onnx", "model/model.safetensors",
        "plots/worst.png", "plots/random.png", "report.html", "report.md",
        "test_predictions.npz", "best.json", "finalists.json", "stages.json",
    } <= set(found["files"])  # fmt: skip
    assert recorder.points > len(recorder.copies) > 50


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("command", [launched, extended], ids=["launch", "extend"])
def test_a_crash_at_every_change_of_a_file(
    command: Any, part: int, tmp_path: Path, without_cluster: None
) -> None:
    recorder, expected = command(tmp_path)
    for number, copy in enumerate(recorder.copies):
        run = RunFolder(copy)
        if number % PARTS != part or not run.manifest.exists():
            continue
        wished = command is launched or read_history(run.journal, run.ledger).extension
        if stages.first_open(run) is None and not wished:
            continue  # the extension was not recorded yet: the finished run is as it was
        work(pipeline.resume, run)
        if wished:
            assert results(run) == expected, f"the crash before change {number}"
        else:
            assert stages.first_open(run) is None
        shutil.rmtree(copy.parent)


@pytest.mark.slow
@pytest.mark.parametrize("command", [launched, extended], ids=["launch", "extend"])
def test_crashes_one_after_another(command: Any, tmp_path: Path, without_cluster: None) -> None:
    """Each session crashes somewhat later than the one before."""
    recorder, expected = command(tmp_path)
    left = recorder.copies[len(recorder.copies) // 8]
    for session in range(6):
        run = RunFolder(left)
        again = Recorder(run.root, tmp_path / f"session-{session}")
        with again.recording():
            work(pipeline.resume, run)
        assert results(run) == expected
        left = again.copies[len(again.copies) // 3]


def test_temporary_files_of_a_killed_run_are_removed(tmp_path: Path, without_cluster: None) -> None:
    _, expected = launched(tmp_path)
    run = RunFolder(tmp_path / "demo")
    run.report_json.unlink()
    mine = [".notes.txt", ".trials.jsonl.swp", ".nfs0001"]
    for name in (
        ".report.json.ab12_xyz", "checkpoints/trial-0000/.epoch-0003.safetensors.a8b7c6d5",
        "model/.export-abcdefgh/model.onnx", ".seen-ab12cd34", *mine,
    ):  # fmt: skip
        (run.root / name).parent.mkdir(exist_ok=True)
        (run.root / name).touch()
    (run.checkpoints / "trial-0000" / "epoch-0099.safetensors").touch()
    work(pipeline.resume, run)
    for name in mine:
        (run.root / name).unlink()
    assert results(run) == expected
    assert not list(run.root.rglob(".*"))
