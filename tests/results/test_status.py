"""The status of a run from its files, without Ray and PyTorch."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from crnn_search.errors import InputError
from crnn_search.results import status
from crnn_search.results.status import describe, list_status, plan, read_status
from crnn_search.storage import stages
from crnn_search.storage.files import write_json
from crnn_search.storage.mirror import Mirror
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import InfeasibleTrial
from tests.results.result_files import SMALL, Writer, record

SPACE = """
search: {trials: 5, max_epochs: 3, grace_epochs: 1, reduction_factor: 3, epoch_sequences: 500}
space:
  learning_rate: {float: [5.0e-3, 3.0e-2], log: true}
"""

PROGRAM = """
import sys
from crnn_search.cli.app import app
for command in (["status"], ["trials"], ["logs"], ["list", "--storage"]):
    app([*command, sys.argv[1]], standalone_mode=False)
print({"ray", "torch", "optuna"} & set(sys.modules))
"""


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    root = tmp_path / "demo"
    root.mkdir()
    (root / "space.yaml").write_text(SPACE)
    return RunFolder(root)


@pytest.fixture
def writer(run: RunFolder) -> Writer:
    """A search with one completed, stopped, failed, infeasible and running trial each."""
    writer = Writer(run)
    writer.end(0, "COMPLETE", 4.0, 3.0, 2.0)
    writer.end(1, "PRUNED", 1.5)
    writer.end(2, "FAIL", 7.0, None)
    writer.journal.write_ended(InfeasibleTrial(3, SMALL.to_dict(), "no pixels are left"))
    writer.start(4, 6.0, 5.0)
    return writer


def test_unfinished_run_as_json(run: RunFolder, writer: Writer) -> None:
    known = json.loads(json.dumps(read_status(run), allow_nan=False))
    assert (known["name"], known["location"]) == ("demo", str(run.root))
    assert (known["held"], known["stage"], known["sessions"]) == (False, "search", 1)
    counts = {k: known["trials"][k] for k in ("requested", "completed", "stopped", "failed")}
    assert counts == {"requested": 5, "completed": 1, "stopped": 1, "failed": 1}
    assert known["trials"]["infeasible"] == 1
    assert known["running_trials"] == [
        {"name": "trial-0004", "epoch": 2, "epochs": 3, "validation_rmse": 5.0}
    ]
    best = {"number": 0, "validation_rmse": 2.0, "epochs": 3, "state": "COMPLETE"}
    assert known["best"] == best | {"config": SMALL.to_dict()}
    assert known["compute"]["core_seconds"] == {
        "completed": 30.0, "stopped": 10.0, "failed": 20.0, "running": 20.0, "finalists": 0.0,
        "retrain": 0.0,
    }  # fmt: skip
    assert known["compute"]["gpu_seconds"]["running"] == 2.0
    assert known["compute"]["asha_saved_share"] == pytest.approx(1 - 4 / 6)


def test_unfinished_run_as_text(run: RunFolder, writer: Writer) -> None:
    known = read_status(run)
    assert describe(known).splitlines() == [
        "demo: searching, not running",
        "  trials     3 of 5 ended: 1 completed, 1 stopped early, 1 failed",
        "  failed     1 × diverged: training loss `nan` | <script>",
        "  started    trial-0004, epoch 2 of 3, validation RMSE 5.000",
        "  best       trial 0, validation RMSE 2.000",
        "  core time  1 min 20 s: completed trials 30 s, stopped trials 10 s, failed trials 20 s, "
        "running trials 20 s",
        "  GPU time   8 s: completed trials 3 s, stopped trials 1 s, failed trials 2 s, "
        "running trials 2 s",
        "  saved      33% of the epochs by early stopping",
        "  elapsed    0 s, sessions: 1",
    ]
    assert plan(known) == (
        "resume will continue trial-0004 from epoch 2, start 1 more trial, "
        "repeat the finalists, retrain the winner, report"
    )


def test_trials_that_the_budget_cut_are_counted_apart(run: RunFolder) -> None:
    writer = Writer(run)
    writer.end(0, "COMPLETE", 4.0, 3.0, 2.0)
    writer.start(1, 5.0)
    reason = "time budget of 2 h 00 min is used up"
    writer.journal.write_ended(dataclasses.replace(record(1, "PRUNED", [5.0]), reason=reason))
    known = read_status(run)
    assert (known["trials"]["stopped"], known["trials"]["cut"]) == (0, 1)
    assert known["compute"]["asha_saved_share"] == 0
    expected = "2 of 5 ended: 1 completed, 0 stopped early, 1 cut when the search ended, 0 failed"
    assert expected in describe(known)
    assert f"  cut        {reason}\n" in describe(known)
    assert "before all trials" not in describe(known), "it may go on"
    writer.journal.write("stage", stage="finalists")
    assert "  cut        the search ended before all trials were started\n" in describe(
        read_status(run)
    )
    assert plan(known).startswith("resume will start 3 more trials, ")


def test_a_run_that_a_process_holds_is_running(
    run: RunFolder, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "is_held", lambda run: True)
    known = read_status(run)
    assert known["held"] is True
    text = describe(known)
    assert text.startswith("demo: searching, running\n")
    assert "\n  running    trial-0004, epoch 2 of 3" in text


def test_a_run_in_an_object_store_has_its_uri_as_location(
    run: RunFolder, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "is_held", lambda run: False)
    mirror = cast(Mirror, SimpleNamespace(uri="s3://bucket/runs/demo", has=lambda _: False))
    known = read_status(RunFolder(run.root, mirror))
    assert known["location"] == "s3://bucket/runs/demo"
    assert str(run.root.parent) not in json.dumps(known) + describe(known) + plan(known)


def test_best_trial_may_have_an_rmse_of_zero(run: RunFolder) -> None:
    writer = Writer(run)
    writer.end(0, "COMPLETE", 4.0, 3.0, 2.0)
    writer.end(1, "COMPLETE", 1.0, 0.0, 0.0)
    known = read_status(run)
    assert known["best"]["number"] == 1
    assert known["best"]["validation_rmse"] == 0.0
    assert "best       trial 1, validation RMSE 0.000" in describe(known)


def test_best_trial_without_a_completed_one(run: RunFolder) -> None:
    writer = Writer(run)
    writer.end(0, "PRUNED", 2.0)
    writer.end(1, "PRUNED", 5.0, 4.0)
    writer.end(2, "FAIL", 1.0, 1.0, None)
    known = read_status(run)
    assert "best       trial 1, validation RMSE 4.000 after 2 epochs only" in describe(known)


def test_a_run_that_has_not_started(run: RunFolder) -> None:
    known = read_status(run)
    assert (known["stage"], known["best"], known["running_trials"]) == ("search", None, [])
    assert describe(known).splitlines() == [
        "demo: searching, not running",
        "  trials     0 of 5 ended: 0 completed, 0 stopped early, 0 failed",
        "  elapsed    0 s, sessions: 0",
    ]
    assert plan(known).startswith("resume will start 5 more trials, repeat the finalists")


def test_many_running_trials_are_counted(run: RunFolder) -> None:
    writer = Writer(run)
    for number in range(10):
        writer.start(number)
    text = plan(read_status(run))
    assert "trial-0007 from epoch 0 and 2 more" in text
    assert "trial-0008" not in text


def test_stages_after_the_search(run: RunFolder) -> None:
    writer = Writer(run)
    for number in range(5):
        writer.end(number, "COMPLETE", 3.0, 2.0, 1.0)
    assert stage_and_plan(run) == (
        "finalists", "resume will repeat the finalists, retrain the winner, report"
    )  # fmt: skip
    writer.start(0, 1.0, stage="finalists", name="trial-0000-seed-0")
    assert stage_and_plan(run) == (
        "finalists",
        "resume will continue trial-0000-seed-0 from epoch 1, repeat the finalists, "
        "retrain the winner, report",
    )
    assert read_status(run)["compute"]["core_seconds"]["finalists"] == 10.0


def test_stages_after_the_choice(run: RunFolder) -> None:
    Writer(run)
    write_json(run.best, {})
    assert stage_and_plan(run)[0] == "search", "the stage is not recorded as done"
    stages.record(run, stages.FINALISTS, [run.best])
    assert stage_and_plan(run) == ("retrain", "resume will retrain the winner, report")
    write_json(run.retrained, {})
    stages.record(run, stages.RETRAIN, [run.retrained])
    assert stage_and_plan(run) == ("report", "resume will report")
    run.report_json.write_text("{}")
    stages.record(run, stages.REPORT, [run.report_json])
    stages.record(run, stages.EXPORT, [])
    assert stage_and_plan(run)[0] == "report"
    stages.record(run, stages.FINISHED, [run.space, run.journal])
    assert stage_and_plan(run) == ("finished", "nothing is left to do")
    assert read_status(run)["test_rmse"] is None
    assert describe(read_status(run)).startswith("demo: finished\n")


@pytest.mark.parametrize("content", [None, "", "{}\n", "[] "])
def test_a_finished_run_with_a_damaged_file_is_not_finished(
    run: RunFolder, content: str | None
) -> None:
    """Once a run counted as finished whose `model/` was empty."""
    finish(run)
    assert stage_and_plan(run)[0] == "finished"
    if content is None:
        run.report_json.unlink()
    else:
        run.report_json.write_text(content)
    assert stage_and_plan(run) == ("report", "resume will report")
    known = read_status(run)
    assert known["damaged"] == ["report.json"]
    assert "  damaged    report.json: removed, cut or altered" in describe(known)


@pytest.mark.parametrize("name", ["space.yaml", "journal.jsonl", "manifest.json"])
def test_a_finished_run_whose_records_were_altered_is_refused(run: RunFolder, name: str) -> None:
    finish(run)
    path = run.root / name
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    with pytest.raises(InputError, match=rf"{path} of a finished run was removed, cut or altered"):
        read_status(run)
    if name != "space.yaml":  # it makes a folder a run
        path.unlink()
        ((_, content),) = list_status(str(run.root.parent))
        assert isinstance(content, InputError)
        assert str(path) in str(content)


@pytest.mark.parametrize(
    "text", ["[]", "3", '{"lunch": {}}', '{"report": []}', '{"report": {"/etc/passwd": {}}}',
             '{"report": {"report.json": {"bytes": "many", "sha256": ""}}}', "{"],
)  # fmt: skip
def test_altered_list_of_files_is_refused(run: RunFolder, text: str) -> None:
    finish(run)
    run.stages.write_text(text)
    with pytest.raises(InputError, match=rf"{run.stages}"):
        read_status(run)


def test_a_finished_run_has_its_start_and_its_test_rmse(run: RunFolder) -> None:
    finish(run)
    known = read_status(run)
    assert (known["started"], known["test_rmse"], known["extended"]) == (None, None, False)
    run.manifest.write_text('{"created": "2026-01-02T03:04:05+00:00"}')
    run.report_json.write_text('{"test": {"rmse": 0.5}, "seconds": {"start": 1.5, "search": 20}}')
    for stage, files in ((stages.REPORT, [run.report_json]), (stages.FINISHED, [run.manifest])):
        stages.record(run, stage, files)
    known = read_status(run)
    assert (known["started"], known["test_rmse"]) == ("2026-01-02T03:04:05+00:00", 0.5)
    run.journal.unlink()  # as `list` of a run in an object store
    run.ledger.touch()
    assert read_status(run)["elapsed_s"] == 21.5


def finish(run: RunFolder) -> None:
    """A finished run whose only result is `report.json`."""
    Writer(run)
    run.manifest.write_text("{}")
    run.report_json.write_text("{} ")
    for stage in (stages.FINALISTS, stages.RETRAIN, stages.EXPORT):
        stages.record(run, stage, [])
    stages.record(run, stages.REPORT, [run.report_json])
    stages.record(run, stages.FINISHED, [run.space, run.manifest, run.journal])


def test_an_interrupted_extension_is_searching(run: RunFolder) -> None:
    """The stage was that of the finalists before the extension."""
    writer = Writer(run)
    for number in range(5):
        writer.end(number, "COMPLETE", 3.0, 2.0, 1.0)
    writer.journal.write("stage", stage="finalists")
    writer.start(0, 1.0, stage="finalists", name="trial-0000-seed-0")
    writer.journal.write("ended", name="trial-0000-seed-0", state="FAIL", reason=None)
    assert stage_and_plan(run)[0] == "finalists"
    none = dict.fromkeys(("time_s", "core_seconds", "gpu_seconds"))
    budget = {"limits": none, "before": none}
    writer.journal.write("extension", trials=7, budget=budget, report=None)
    for text in (SPACE, SPACE.replace("trials: 5", "trials: 7")):
        run.space.write_text(text)
        known = read_status(run)
        assert (known["stage"], known["trials"]["requested"]) == ("search", 7)
        assert "start 2 more trials" in plan(known)
    assert "  extended   to 7 trials\n" in describe(known)
    writer.journal.write("stage", stage="search")
    assert stage_and_plan(run)[0] == "search"
    for number in (5, 6):
        writer.end(number, "COMPLETE", 3.0, 2.0, 1.0)
    assert stage_and_plan(run)[0] == "finalists"


def test_an_extension_leaves_the_retraining_before_it_alone(run: RunFolder) -> None:
    """`status` once said that resume would continue the retraining of the earlier winner."""
    writer = Writer(run)
    for number in range(5):
        writer.end(number, "COMPLETE", 3.0, 2.0, 1.0)
    stages.record(run, stages.FINALISTS, [])
    writer.journal.write("stage", stage="retrain")
    writer.start(0, 1.0, stage="retrain", name="trial-0000-retrained-0")
    assert "continue trial-0000-retrained-0 from epoch 1" in stage_and_plan(run)[1]
    none = dict.fromkeys(("time_s", "core_seconds", "gpu_seconds"))
    budget = {"limits": none, "before": none}
    writer.journal.write("extension", trials=7, budget=budget, report=None)
    stage, plan = stage_and_plan(run)
    assert stage == "search"
    assert plan.startswith("resume will start 2 more trials, repeat the finalists")
    assert "retrained" not in describe(read_status(run))


def stage_and_plan(run: RunFolder) -> tuple[str, str]:
    known: dict[str, Any] = read_status(run)
    return known["stage"], plan(known)


def test_a_torn_last_line_is_ignored(run: RunFolder, writer: Writer) -> None:
    whole = read_status(run)
    for path in (run.journal, run.ledger):
        with path.open("ab") as file:
            file.write(b'{"event": "epo')
    assert read_status(run) == whole


def test_commands_that_look_import_neither_ray_nor_torch(run: RunFolder, writer: Writer) -> None:
    run.log.touch()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(run.root)], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("set()\n")
