from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from crnn_search.storage import retry
from crnn_search.storage.retry import patiently
from crnn_search.tuning.checkpoints import CheckpointFolder


class Storage:
    """A folder that comes back after some pauses."""

    def __init__(self, folder: Path, pauses: int) -> None:
        self.folder = folder
        self.away = folder.with_name("away")
        self.pauses = pauses
        self.told: list[str] = []
        folder.mkdir()
        folder.rename(self.away)

    def pause(self, seconds: float) -> None:
        self.pauses -= 1
        if not self.pauses:
            self.away.rename(self.folder)


def test_it_waits_until_the_folder_is_back_and_makes_nothing_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(tmp_path / "runs", 3)
    monkeypatch.setattr("time.sleep", storage.pause)
    path = storage.folder / "a" / "b"

    def write() -> str:
        path.parent.mkdir(parents=True)
        path.write_text("text")
        return "done"

    assert patiently(write, storage.folder, storage.told.append) == "done"
    assert path.read_text() == "text"
    first, last = storage.told
    assert first.startswith(f"{storage.folder} cannot be reached: the folder is gone; waiting")
    assert last.startswith(f"{storage.folder} is back after ")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_what_does_not_pass_is_raised_at_once(code: int, tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError(code, os.strerror(code))

    with pytest.raises(OSError, match=os.strerror(code)):
        patiently(fail, tmp_path, pytest.fail)


def test_it_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PATIENCE_S", 0.0)
    told: list[str] = []
    with pytest.raises(FileNotFoundError, match="the folder is gone"):
        patiently(lambda: None, tmp_path / "gone", told.append)


def test_a_trial_does_not_begin_anew_while_its_checkpoints_are_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(tmp_path / "checkpoints", 2)
    folder = CheckpointFolder(storage.folder / "trial-0000", storage.told.append)
    (storage.away / "trial-0000").mkdir()
    file = storage.away / "trial-0000" / folder.file(1).name
    file.write_bytes(b"no checkpoint")
    monkeypatch.setattr("time.sleep", storage.pause)
    monkeypatch.setattr(
        "crnn_search.tuning.checkpoints.load_state", lambda path, device: _found(path)
    )
    with pytest.raises(LookupError, match="epoch-0001"):
        folder.load(None, None)  # type: ignore[arg-type]
    assert len(storage.told) == 2


def _found(path: Path) -> None:
    raise LookupError(path.name)
