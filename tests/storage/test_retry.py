from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crnn_search.storage import retry
from crnn_search.storage.retry import with_retries
from crnn_search.tuning.checkpoints import CheckpointFolder


class Share:
    """A shared folder that can be reached again after some pauses."""

    def __init__(self, folder: Path, pauses: int) -> None:
        self.folder = folder
        self.unmounted = folder.with_name("unmounted")
        self.pauses = pauses
        self.messages: list[str] = []
        folder.mkdir()
        folder.rename(self.unmounted)

    def sleep(self, seconds: float) -> None:
        self.pauses -= 1
        if not self.pauses:
            self.unmounted.rename(self.folder)


def test_actions_wait_for_the_folder_and_create_nothing_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = Share(tmp_path / "runs", 3)
    monkeypatch.setattr("time.sleep", share.sleep)
    path = share.folder / "a" / "b"

    def write() -> str:
        path.parent.mkdir(parents=True)
        path.write_text("text")
        return "result"

    assert with_retries(write, share.folder, share.messages.append) == "result"
    assert path.read_text() == "text"
    assert share.messages == [
        f"{share.folder} cannot be reached: the folder does not exist; retrying for at most 10 "
        "minutes",
        f"{share.folder} is reachable again after 0 s",
    ]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_errors_that_do_not_pass_are_raised_at_once(code: int, tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError(code, os.strerror(code))

    with pytest.raises(OSError, match=os.strerror(code)):
        with_retries(fail, tmp_path, pytest.fail)


def test_retries_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "RETRY_FOR_S", 0.0)
    messages: list[str] = []
    with pytest.raises(FileNotFoundError, match="the folder does not exist"):
        with_retries(lambda: None, tmp_path / "gone", messages.append)


def test_a_trial_does_not_restart_while_its_checkpoints_cannot_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = Share(tmp_path / "checkpoints", 2)
    folder = CheckpointFolder(share.folder / "trial-0000", share.messages.append)
    (share.unmounted / "trial-0000").mkdir()
    (share.unmounted / "trial-0000" / folder.name(1)).touch()
    monkeypatch.setattr("time.sleep", share.sleep)

    def load(path: Path, *_: Any) -> None:
        raise LookupError(path.name)

    monkeypatch.setattr("crnn_search.tuning.checkpoints.load_state", load)
    trial: Any = SimpleNamespace(arithmetic=None)
    with pytest.raises(LookupError, match=r"epoch-0001"):
        folder.load(trial, device=None)  # type: ignore[arg-type]
    assert len(share.messages) == 2
