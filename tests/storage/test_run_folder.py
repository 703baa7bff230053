from __future__ import annotations

from pathlib import Path

from crnn_search.storage.mirror import Mirror
from crnn_search.storage.run_folder import APPENDED, NOT_PUSHED, RunFolder

URI = "s3://bucket/runs/demo?region=us-east-1"


def test_files_of_a_folder_are_named_as_they_were_given() -> None:
    run = RunFolder(Path("runs/demo"))
    assert run.name == "demo"
    assert run.location == "runs/demo"
    assert run.location_of(run.report_markdown) == "runs/demo/report.md"
    assert run.checkpoint_location == str(Path.cwd() / "runs/demo/checkpoints")


def test_files_of_an_object_store_are_named_by_uri(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "demo", Mirror(URI, tmp_path / "demo"))
    assert run.location == URI
    assert run.location_of(run.plots / "a.svg") == (
        "s3://bucket/runs/demo/plots/a.svg?region=us-east-1"
    )
    assert run.checkpoint_location == "s3://bucket/runs/demo/checkpoints?region=us-east-1"


def test_changes_of_a_folder_need_nothing(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with run.changes():
        run.best.touch()
    assert list(tmp_path.iterdir()) == [run.best]
    assert run.file("best.json") == run.best


def test_names_of_files_with_their_own_way_to_the_store() -> None:
    run = RunFolder(Path())
    assert (run.journal.name, run.ledger.name) == APPENDED
    assert {run.checkpoints.name, run.stop.name, *APPENDED} < set(NOT_PUSHED)


def test_no_two_files_share_a_name() -> None:
    properties = [name for name, value in vars(RunFolder).items() if isinstance(value, property)]
    values = [getattr(RunFolder(Path("demo")), name) for name in properties]
    paths = [value for value in values if isinstance(value, Path)]
    assert len(paths) == len(set(paths)) > 10
