"""The token of a local Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from crnn_search.cluster import auth_token

TOKEN = "a" * 64


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    yield tmp_path
    assert os.environ["RAY_AUTH_MODE"]


@pytest.fixture
def token(home: Path) -> Path:
    (home / ".ray").mkdir()
    return home / ".ray" / "auth_token"


@pytest.mark.parametrize("umask", [0o022, 0o000, 0o077])
def test_new_token_is_its_users_alone(home: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        auth_token.ensure_local(pytest.fail)
    finally:
        os.umask(before)
    path = home / ".ray" / "auth_token"
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(path.read_text()) == 64
    assert [file.name for file in path.parent.iterdir()] == ["auth_token"]


def test_processes_that_start_together_share_a_token(token: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: auth_token.ensure_local(pytest.fail), range(8)))
    assert len(token.read_text()) == 64


def test_token_that_is_there_is_kept_and_warned_of_if_others_may_read_it(token: Path) -> None:
    notes: list[str] = []
    token.write_text(TOKEN)
    token.chmod(0o600)
    auth_token.ensure_local(notes.append)
    assert notes == []
    token.chmod(0o644)
    auth_token.ensure_local(notes.append)
    auth_token.warn_if_readable(notes.append)
    assert token.read_text() == TOKEN
    assert len(notes) == 2
    for note in notes:
        assert f"other users may read the token of Ray, {token} (mode 0644)" in note


def test_path_in_the_environment_is_looked_at(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / "token"
    path.write_text(TOKEN)
    path.chmod(0o640)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    notes: list[str] = []
    auth_token.ensure_local(notes.append)
    assert f"{path} (mode 0640)" in "".join(notes)
    assert not (home / ".ray").exists()


def test_without_a_home_the_token_is_for_this_process(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "file").touch()
    monkeypatch.setenv("HOME", str(home / "file"))
    auth_token.ensure_local(pytest.fail)
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


def test_where_nobody_knows_a_home_the_token_is_for_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    auth_token.ensure_local(pytest.fail)
    auth_token.warn_if_readable(pytest.fail)
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


def test_nothing_is_written_without_authentication(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    auth_token.ensure_local(pytest.fail)
    assert not (home / ".ray").exists()
    assert not os.environ["RAY_AUTH_TOKEN"]
