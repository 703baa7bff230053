"""Extended, warm-started and limited searches: real files and Optuna, no Ray and no training."""

from __future__ import annotations

import dataclasses
import io
import platform
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy.pool import NullPool
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from crnn_search.cli import terminal
from crnn_search.cli.display import PlainProgress
from crnn_search.cluster import pace
from crnn_search.data.digits import Digits
from crnn_search.errors import InterruptedRun
from crnn_search.pipeline import run as pipeline
from crnn_search.results.status import describe, read_status
from crnn_search.storage import jsonl
from crnn_search.storage.files import read_json
from crnn_search.storage.run_folder import RunFolder
from crnn_search.tuning.budget import Budget
from tests.pipeline.small_pipeline import SPACE, no_cluster, work


def check_boards(run: RunFolder) -> list[FrozenTrial]:
    """Check that both boards have what the ledger says; returns the trials of the study."""
    storage = RDBStorage(f"sqlite:///{run.study}", engine_kwargs={"poolclass": NullPool})
    trials = optuna.load_study(study_name=run.name, storage=storage).trials
    lines = sorted(jsonl.read(run.ledger), key=lambda line: int(line["number"]))
    states = [line["state"].replace("INFEASIBLE", "FAIL") for line in lines]
    assert [trial.state.name for trial in trials] == states
    assert [trial.user_attrs.get("reason") for trial in trials] == [it["reason"] for it in lines]
    for trial, line in zip(trials, lines, strict=True):
        values = line.get("validation_rmse", [])
        assert trial.intermediate_values == dict(enumerate(values, start=1))
        if values:
            events = EventAccumulator(str(run.tensorboard / "search" / line["name"])).Reload()
            shown = [event.value for event in events.Scalars("validation/rmse")]
            assert shown == [pytest.approx(value) for value in values]
            full = line["state"] == "COMPLETE"
            tags = {"trial/rmse_full_budget": full, "trial/rmse_where_stopped": not full}
            assert {tag: tag in events.Tags()["scalars"] for tag in tags} == tags
    return trials


def test_an_extended_search_continues_in_the_same_study(tmp_path: Path, digits: Digits) -> None:
    run = RunFolder(tmp_path / "demo")
    run.root.mkdir(parents=True)
    with no_cluster(digits, boards=True):
        work(pipeline.launch, run)
        before = jsonl.read(run.ledger)
        report = read_json(run.report_json)
        shown = io.StringIO()
        with (
            mock.patch.object(pipeline, "_finish", side_effect=KeyboardInterrupt),
            pytest.raises(InterruptedRun, match="crnn-search resume"),
        ):
            work(pipeline.extend, run, 2)
        for page in (run.report_markdown, run.report_html):
            assert page.read_text().count("Outdated: this is the report on 4 trials; the sear") == 1
        work(pipeline.resume, run, display=PlainProgress(terminal.console(shown)))
    assert not any("Outdated" in p.read_text() for p in (run.report_markdown, run.report_html))
    after = jsonl.read(run.ledger)
    ended = sum(trial["state"] != "INFEASIBLE" for trial in before)
    lines = shown.getvalue().splitlines()
    assert lines[:4] == [
        "reading the run", "data: MNIST", "starting Ray", "preparing the trials"
    ]  # fmt: skip
    first = f"search, extended to {ended + 2} trials: {ended + 2} trials of up to 2 epochs, "
    assert lines[5] == f"{first}{ended} ended before"
    assert sum(f" · search: {ended + 1}/{ended + 2} · " in line for line in lines) == 1
    assert lines[-2:] == [
        "report: scoring the retrained networks on the test images", "export: safetensors, onnx"
    ]  # fmt: skip
    assert f"  extended   to {ended + 2} trials\n" in describe(read_status(run))
    assert after[: len(before)] == before
    assert [trial["number"] for trial in after] == list(range(len(before) + 2))
    extended = read_json(run.report_json)
    (earlier,) = extended["run"]["earlier_reports"]
    assert earlier["rmse"] == report["test"]["rmse"]
    assert "extended after a report" in run.report_markdown.read_text()
    trained = [e["trial"]["name"] for e in jsonl.read(run.journal) if e["event"] == "trial"]
    baseline = [name for name in trained if "mnist" in name]
    assert len(baseline) == 1, "the network of 2016 is not trained again"
    check_boards(run)


def test_budget_and_warm_start(
    tmp_path: Path, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pace is measured in this process, which trains a network for it."""
    node = SimpleNamespace(name=platform.node(), cpus=1.0, gpus=0.0)
    monkeypatch.setattr(pace, "nodes", lambda: [node])
    monkeypatch.setattr(pace, "count_fitting", lambda *_: 1)
    first, run = RunFolder(tmp_path / "demo"), RunFolder(tmp_path / "warm")
    first.root.mkdir(parents=True)
    run.root.mkdir()
    longer = dataclasses.replace(SPACE, search=SPACE.search.model_copy(update={"max_epochs": 4}))
    with no_cluster(digits, boards=True):
        work(pipeline.launch, first)
        notes = work(
            pipeline.launch, run, space=longer, budget=Budget(core_seconds=0.0001),
            warm_runs=[str(first.root)],
        )  # fmt: skip
    assert "warm start: 4 earlier trials" in notes[0]
    copies = check_boards(run)
    assert [copy.user_attrs["reason"] for copy in copies if copy.state.name == "PRUNED"]
    (trial,) = [t for t in jsonl.read(run.ledger) if t["state"] != "INFEASIBLE"]
    assert trial["state"] == "PRUNED"
    too_small = "budget of core time of 0.0001 s is too small: finalists and retraining alone take"
    assert trial["reason"].startswith(too_small)
    at_once = next(note for note in notes if note.startswith(too_small))
    ended = next(note for note in notes if note.startswith(f"the search has ended: {too_small}"))
    assert notes.index(at_once) < notes.index(ended)
    assert len(trial["validation_rmse"]) == 2, "it stops at the epoch after the budget was used up"
    report = read_json(run.report_json)
    assert report["test"]["rmse"] > 0
    assert (report["trials"]["stopped"], report["trials"]["cut"]) == (0, 1)
    assert "1 cut when the search ended" in run.report_markdown.read_text()
    assert report["compute"]["asha_saved_share"] is None
    assert "1 cut when the search ended, 0 failed\n  cut        the search ended" in describe(
        read_status(run)
    )
    manifest = read_json(run.manifest)
    assert manifest["warm_start"] == [str(first.root)]
    assert manifest["budget"]["limits"]["core_seconds"] == 0.0001
