"""Where the cache is."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import platformdirs
import pytest

from crnn_search.data import mnist
from crnn_search.errors import DataError
from crnn_search.storage.cache import CACHE_VARIABLE, cache_folder


@pytest.fixture
def no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No home folder, as with `docker run --user`; returns the folder of temporary files."""
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: f"~/.cache/{name}")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_without_a_home_the_cache_is_a_temporary_folder(no_home: Path) -> None:
    folder = no_home / f"crnn-search-{os.geteuid()}"
    assert cache_folder() == cache_folder() == folder
    assert folder.stat().st_mode & 0o777 == 0o700


def test_temporary_folder_of_another_user_is_not_trusted(
    no_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_folder()
    user = os.geteuid() + 1
    (no_home / f"crnn-search-{user - 1}").rename(no_home / f"crnn-search-{user}")
    monkeypatch.setattr(os, "geteuid", lambda: user)
    with pytest.raises(PermissionError, match="it belongs to another user"):
        cache_folder()
    with pytest.raises(DataError, match=r"cannot use .*another user; name a folder in CRNN_"):
        mnist.find()


def test_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "data").mkdir()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    for folder in (None, tmp_path / "data"):
        with pytest.raises(DataError, match=r"cannot write the cache .*file/mnist: .*CRNN_SEARCH"):
            mnist.find(folder)
