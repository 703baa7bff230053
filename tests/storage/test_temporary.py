"""What processes that were killed leave is removed by a later one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crnn_search.storage import temporary


def test_folders_of_processes_that_ended_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    alive, dead, foreign = temporary.create_folder(), tmp_path / "crnn-search-dead", tmp_path / "x"
    for path in (dead, foreign):
        path.mkdir()
        (path / ".lock").touch()
    temporary.remove_dead_folders()
    assert dead.exists(), "it may be a second old only, and not be locked yet"
    for path in (alive, dead, foreign):
        os.utime(path, (0, 0))
    temporary.remove_dead_folders()
    assert (alive.exists(), dead.exists(), foreign.exists()) == (True, False, True)


def test_a_folder_is_removed_at_the_end_of_the_block() -> None:
    with temporary.folder() as path:
        assert path.is_dir()
    assert not path.exists()


def test_only_what_this_package_names_so_is_removed_from_a_run(tmp_path: Path) -> None:
    unfinished = [".best.json.ab12_xyz", "a/.epoch-0001.safetensors.a8b7c6d5", ".seen-ab12cd34"]
    others = [".notes.txt.template", ".best.json.swp", ".nfs00012", "best.json", ".hidden/x.json"]
    for name in (*unfinished, *others):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    temporary.remove_unfinished(tmp_path)
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert left == set(others)
