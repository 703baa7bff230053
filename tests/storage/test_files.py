from __future__ import annotations

import errno
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crnn_search.errors import InputError, StorageError
from crnn_search.storage.files import atomic_write, read_json, write_json, write_text


def test_json_is_read_as_written(tmp_path: Path) -> None:
    path, value = tmp_path / "a.json", {"name": "größer", "values": [1.5, None]}
    write_json(path, value)
    assert read_json(path) == value
    assert "größer" in path.read_text(encoding="utf-8")


@pytest.fixture(params=[0o022, 0o002, 0o027, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_the_umask_decides_who_may_read_a_file(umask: int, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for _ in range(2):
        write_json(path, {})
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_lone_surrogate_is_written_as_its_escape(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"name": "caf\udce9"})
    assert path.read_bytes() == b'{\n  "name": "caf\\udce9"\n}\n'
    assert read_json(path) == {"name": "caf\udce9"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES])
@pytest.mark.parametrize("function", ["open", "fsync", "rename"])
def test_a_file_that_cannot_be_written_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, code: int
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    path = tmp_path / "a.json"
    path.write_text("1")
    if function == "rename":
        monkeypatch.setattr(Path, "replace", refuse)
    else:
        monkeypatch.setattr(os, function, refuse)
    message = (
        rf"^cannot write .*/a\.json: {os.strerror(code)}; .* continue with crnn-search resume$"
    )
    with pytest.raises(StorageError, match=message):
        write_json(path, 2)
    monkeypatch.undo()
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"]
    assert read_json(path) == 1


def test_a_folder_that_is_gone_is_not_created_again(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "demo"
    run.mkdir(parents=True)
    shutil.rmtree(run)
    with pytest.raises(StorageError, match=r"cannot write .*/manifest\.json: No such file or dir"):
        write_json(run / "manifest.json", {})
    assert not run.exists()


def test_nan_is_refused_and_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, math.nan)
    assert read_json(path) == 1


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("ne")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "Expecting property name"),
        (b"\xff", "codec can't decode"),
        (b"[" * 100_000, "nested too deeply"),
    ],
    ids=["no JSON", "no UTF-8", "deep"],
)
def test_a_file_that_is_not_json_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"cannot read .*a\.json: .*{message}"):
        read_json(path)


def test_a_missing_json_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*a\.json: .*No such file"):
        read_json(tmp_path / "a.json")
