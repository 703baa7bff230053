"""More trials for a run that has ended: real files and Optuna, but no Ray and no training."""

from __future__ import annotations

from pathlib import Path

from crnn_search.data.sequences import Digits
from crnn_search.pipeline import run as pipeline
from crnn_search.storage import jsonl
from crnn_search.storage.files import read_json
from crnn_search.storage.run_folder import RunFolder
from tests.pipeline.small_pipeline import no_cluster, work


def test_an_extended_search_continues_in_the_same_study(tmp_path: Path, digits: Digits) -> None:
    run = RunFolder(tmp_path / "demo")
    run.root.mkdir(parents=True)
    with no_cluster(digits):
        work(pipeline.launch, run)
        before = jsonl.read(run.ledger)
        report = read_json(run.report_json)
        work(pipeline.extend, run, 2)
    after = jsonl.read(run.ledger)
    assert after[: len(before)] == before
    assert [trial["number"] for trial in after] == list(range(len(before) + 2))
    extended = read_json(run.report_json)
    (earlier,) = extended["run"]["earlier_reports"]
    assert earlier["rmse"] == report["test"]["rmse"]
    assert "extended after a report" in run.report_markdown.read_text()
    trained = [e["trial"]["name"] for e in jsonl.read(run.journal) if e["event"] == "trial"]
    baseline = [name for name in trained if "mnist" in name]
    assert len(baseline) == 1, "the network of 2016 is not trained again"
