"""Runs are created, opened, listed and removed, in a folder and in an object store."""

from __future__ import annotations

import errno
import os
import re
from functools import partial
from pathlib import Path

import pytest

from crnn_search.errors import InputError, RunFolderError
from crnn_search.storage import mirror, stages
from crnn_search.storage.files import read_json, write_json
from crnn_search.storage.location import join
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.runs import (
    check_owner,
    check_run_name,
    create_run,
    default_name,
    is_retrained,
    list_runs,
    open_run,
    remove_run,
)


@pytest.fixture(params=["folder", "object store"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder of runs, or the URI of one."""
    if request.param == "folder":
        return str(tmp_path / "runs")
    return str(request.getfixturevalue("s3"))


def new_run(storage: str, name: str) -> RunFolder:
    run = create_run(storage, name)
    with run.changes():
        run.space.write_text("space: {}")
    return run


def locations(storage: str) -> list[str]:
    return [run.location for run in list_runs(storage)]


def test_a_created_run_can_be_opened_listed_and_removed(storage: str) -> None:
    first, second = new_run(storage, "b"), new_run(storage, "a")
    assert first.location == join(storage, "b")
    assert open_run(first.location).space.read_text() == "space: {}"
    assert locations(storage) == [second.location, first.location]
    remove_run(first)
    assert locations(storage) == [second.location]
    with pytest.raises(RunFolderError, match="is not the folder of a run: it has no space"):
        open_run(first.location)


def test_a_run_that_exists_is_not_created_again(storage: str) -> None:
    location = new_run(storage, "demo").location
    with pytest.raises(RunFolderError, match="a run called 'demo' exists in ") as caught:
        create_run(storage, "demo")
    assert str(caught.value).endswith(f"choose another with --name, or remove {location}")


def test_only_folders_with_a_space_file_are_listed(storage: str) -> None:
    create_run(storage, "empty")
    run = new_run(storage, "demo")
    assert locations(storage) == [run.location]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a/", "a\nb", "a\x1b", "\udcff"])
def test_a_run_name_is_a_plain_folder_name(name: str, tmp_path: Path) -> None:
    for check in (check_run_name, lambda name: create_run(str(tmp_path), name)):
        with pytest.raises(RunFolderError, match="must be a plain folder name, got "):
            check(name)
    assert not list(tmp_path.iterdir())


def test_a_name_that_no_file_system_holds_is_refused(storage: str) -> None:
    with pytest.raises(RunFolderError, match=r"at most 255 bytes, got 'ää.*\(302 characters\)"):
        create_run(storage, "ä" * 300)


@pytest.mark.parametrize("name", ["a#b", "a?b", "a%b", "100%", "a%20b", "what?", "#1"])
def test_a_name_that_a_uri_cannot_hold_is_refused_in_a_bucket_only(
    name: str, tmp_path: Path, s3: str
) -> None:
    with pytest.raises(
        RunFolderError, match=rf"without [#?%], got {re.escape(repr(name))}; choose"
    ):
        create_run(s3, name)
    assert list_runs(s3) == []
    run = new_run(str(tmp_path), name)
    assert open_run(run.location).location == run.location == str(tmp_path / name)


@pytest.mark.parametrize("name", ["a b", "größe", "a+b", "a&b=c", "a:b", "[a]", "a~b", "a'b", "*"])
def test_other_names_are_the_same_in_a_folder_and_in_a_bucket(name: str, storage: str) -> None:
    run = new_run(storage, name)
    with run.changes():
        write_json(run.best, {"name": name})
    assert locations(storage) == [run.location]
    again = open_run(run.location)
    assert again.name == name
    assert read_json(again.best) == {"name": name}


def test_runs_that_start_in_the_same_second_have_other_names() -> None:
    names = {default_name("space") for _ in range(3)}
    assert len(names) == 3
    for name in names:
        assert re.fullmatch(r"space-\d{8}-\d{6}-[0-9a-f]{4}", name)


def test_a_storage_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    run = new_run("~/runs", "demo")
    assert run.location == str(tmp_path / "home" / "runs" / "demo")
    assert open_run("~/runs/demo").space.is_file()
    assert locations("~/runs") == [run.location]
    assert not (tmp_path / "~").exists()
    for action in (partial(create_run, "s3:/b", "demo"), partial(open_run, "s3:/b/demo")):
        with pytest.raises(InputError, match="must be a path or a URI such as s3://BUCKET/PREFIX"):
            action()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_file_in_place_of_a_folder_says_so(tmp_path: Path) -> None:
    (tmp_path / "demo").touch()
    with pytest.raises(RunFolderError, match=r"cannot create the folder .*demo: File exists"):
        create_run(str(tmp_path), "demo")


def test_a_read_only_folder_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(RunFolderError, match=r"cannot write to .*: Read-only file system; choose"):
        create_run(str(tmp_path / "runs"), "demo")


def test_a_missing_folder_of_runs_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no folder .*/none; name the folder of runs"):
        list_runs(str(tmp_path / "none"))


def test_a_missing_bucket_says_so(s3: str) -> None:
    storage = s3.replace("bucket", "nobucket")
    message = r"cannot (use|read) s3://nobucket/.*: there is no bucket 'nobucket'"
    with pytest.raises(RunFolderError, match=message):
        create_run(storage, "demo")
    with pytest.raises(RunFolderError, match=message):
        open_run(join(storage, "demo"))
    with pytest.raises(InputError, match=message):
        list_runs(storage)


def test_a_store_that_cannot_be_reached_is_not_waited_for_long(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "READ_RETRY_FOR_S", 0)
    nobody = "s3://bucket/runs?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1"
    with pytest.raises(RunFolderError, match=r"cannot read s3://bucket/runs.*: Generic S3 error"):
        open_run(nobody)


def test_the_files_of_another_user_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(str(tmp_path), "demo")
    check_owner(run)
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: run.root.stat().st_uid + 1)
        with pytest.raises(RunFolderError, match=r"belongs to user .* contents would be trusted"):
            check_owner(run)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
@pytest.mark.parametrize(
    "name", ["best.json", "warm_start.jsonl", "checkpoints/trial-0000/a", "retrained/a"]
)
def test_each_file_of_another_user_is_refused(tmp_path: Path, name: str) -> None:
    run = new_run(str(tmp_path), "demo")
    path = run.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    check_owner(run)
    os.chown(path, 12345, -1)
    with pytest.raises(RunFolderError, match=rf"{path} belongs to user 12345, not to you, user 0"):
        check_owner(run)


def test_a_run_is_retrained_once_its_models_are_recorded_and_whole(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    model = run.retrained_models / "seed-1.safetensors"
    model.parent.mkdir()
    assert not is_retrained(run)
    for path in (run.best, run.retrained, model):
        write_json(path, {})
    assert not is_retrained(run)
    stages.record(run, stages.FINALISTS, [run.best])
    stages.record(run, stages.RETRAIN, [run.retrained, model])
    assert is_retrained(run)
    model.write_bytes(b"")
    assert not is_retrained(run)
