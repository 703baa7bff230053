"""A run's folder and its copy in an object store."""

from __future__ import annotations

from typing import Any

import pytest

from crnn_search.errors import StorageError
from crnn_search.storage import journal, jsonl
from crnn_search.storage.files import write_json
from crnn_search.storage.mirror import SEGMENT_LINES, Mirror
from crnn_search.storage.object_store import ObjectStore
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.runs import create_run, open_run


def new_run(s3: str, name: str) -> tuple[RunFolder, Mirror]:
    """A new run with a space file, in the store."""
    run = create_run(s3, name)
    assert run.mirror
    with run.changes():
        run.space.write_text("space: {}")
    return run, run.mirror


def test_changed_files_are_pushed_when_the_block_ends(s3: str) -> None:
    run, mirror = new_run(s3, "pushed")
    with run.changes():
        write_json(run.best, {"number": 1})
        (run.plots / "deep").mkdir(parents=True)
        (run.plots / "deep" / "a.bin").write_bytes(bytes(range(256)))
        assert mirror.store.names("plots") == []
    again = open_run(run.location)
    assert again.best.read_bytes() == run.best.read_bytes()
    assert (again.plots / "deep" / "a.bin").read_bytes() == bytes(range(256))

    with run.changes():
        run.best.unlink()
        write_json(run.finalists, [])
    again = open_run(run.location)
    assert not again.best.exists()
    assert again.finalists.exists()


def test_only_changed_files_are_pushed(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = new_run(s3, "changed")
    with run.changes():
        write_json(run.best, {"number": 1})
    again = open_run(run.location)
    assert again.mirror
    written: list[str] = []
    monkeypatch.setattr(again.mirror.store, "write", lambda name, content: written.append(name))
    with again.changes():
        write_json(again.best, {"number": 22})
    assert written == ["best.json"]


def test_nothing_is_pushed_if_the_block_raises(s3: str) -> None:
    run, _ = new_run(s3, "raised")

    def change() -> None:
        with run.changes():
            write_json(run.best, {"number": 1})
            raise ValueError("stop here")

    with pytest.raises(ValueError, match="stop here"):
        change()
    assert not open_run(run.location).best.exists()


def test_files_in_folders_are_pushed_first(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run, mirror = new_run(s3, "order")
    written: list[str] = []
    monkeypatch.setattr(mirror.store, "write", lambda name, content: written.append(name))
    with run.changes():
        write_json(run.report_json, {})
        run.model.mkdir()
        (run.model / "model.onnx").touch()
    assert written == ["model/model.onnx", "report.json"]


def test_checkpoints_and_requests_to_stop_are_not_pushed(s3: str) -> None:
    run, mirror = new_run(s3, "left")
    with run.changes():
        run.checkpoints.mkdir()
        (run.checkpoints / "not-this").touch()
        run.stop.touch()
        (run.root / ".hidden").touch()
    assert mirror.store.names() == ["lease.json", "space.yaml"]


def test_a_file_only_in_the_store_is_fetched(s3: str) -> None:
    run, mirror = new_run(s3, "fetched")
    mirror.store.write("checkpoints/trial-0000/a", b"state")
    again = open_run(run.location)
    assert not again.checkpoints.exists()
    assert again.file("checkpoints/trial-0000/a").read_bytes() == b"state"
    assert not again.file("checkpoints/trial-0000/b").exists()


def test_only_what_is_wanted_is_fetched(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run, mirror = new_run(s3, "wanted")
    with run.changes():
        write_json(run.best, {})
        run.model.mkdir()
        (run.model / "model.onnx").write_bytes(bytes(1000))
    mirror.start_session()
    journal.append(run, run.journal, {"event": "epoch"})
    read: list[str] = []
    original = ObjectStore.read

    def reading(store: ObjectStore, name: str) -> bytes | None:
        read.append(name)
        return original(store, name)

    monkeypatch.setattr(ObjectStore, "read", reading)
    again = open_run(run.location, ())
    assert read == ["space.yaml"]
    assert again.has(again.best)
    assert again.has(again.model)
    assert not again.has(again.report_json)
    assert not again.best.exists()
    again.fetch("journal.jsonl")
    assert jsonl.read(again.journal) == [{"event": "epoch"}]
    assert len(read) == 2
    assert again.mirror
    again.mirror.pull()
    assert sorted(read[2:]) == ["best.json", "model/model.onnx"]
    again.mirror.pull()
    assert len(read) == 4


def test_errors_name_files_as_the_user_does(s3: str) -> None:
    run, _ = new_run(s3, "named")
    text = f"line 3 of {run.root}/journal.jsonl is wrong; see {run.root}: x"
    place = run.location_of(run.journal)
    assert run.with_locations(text) == f"line 3 of {place} is wrong; see {run.location}: x"


def test_appended_lines_of_all_sessions_are_read_in_order(s3: str) -> None:
    run, mirror = new_run(s3, "appended")
    events = [{"event": "epoch", "epoch": n} for n in range(SEGMENT_LINES + 5)]
    for session in (events[:3], events[3:]):
        mirror.start_session()
        for event in session:
            journal.append(run, run.journal, event)
    journal.append(run, run.ledger, {"number": 0})
    again = open_run(run.location)
    assert jsonl.read(again.journal) == events == jsonl.read(run.journal)
    assert jsonl.read(again.ledger) == [{"number": 0}]
    segments = [name for name in mirror.store.names() if name.startswith("journal.jsonl.d/")]
    assert len(segments) == 3


def test_a_line_is_in_the_store_before_it_is_in_the_file(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, mirror = new_run(s3, "refused")

    def fail(*_: Any) -> None:
        raise StorageError("s3://bucket", "no")

    monkeypatch.setattr(mirror.store, "write", fail)
    with pytest.raises(StorageError, match=r"cannot write s3://bucket: no.*storage writable"):
        journal.append(run, run.journal, {"event": "epoch"})
    assert not run.journal.exists()


def test_remove_leaves_nothing(s3: str) -> None:
    run, mirror = new_run(s3, "removed")
    mirror.remove()
    assert mirror.store.names() == []
    assert run.space.exists()


def test_sizes_of_what_was_not_fetched_are_known(s3: str) -> None:
    run, _ = new_run(s3, "sizes")
    with run.changes():
        write_json(run.best, {"number": 1})
    for number in range(SEGMENT_LINES + 1):
        journal.append(run, run.journal, {"number": number})
    again = open_run(run.location, ())
    assert not again.best.exists()
    assert again.size(again.best) == run.best.stat().st_size
    assert again.size(again.journal) == run.journal.stat().st_size
    assert again.size(again.report_json) is None


def test_the_list_of_the_stages_files_is_written_last(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, mirror = new_run(s3, "order")
    written: list[str] = []
    monkeypatch.setattr(mirror.store, "write", lambda name, content: written.append(name))
    run.plots.mkdir()
    with run.changes():
        for path in (run.stages, run.root / "zoo.json", run.plots / "a.json"):
            write_json(path, {})
    assert written == ["plots/a.json", "zoo.json", "stages.json"]
