from __future__ import annotations

import math
from pathlib import Path

import pytest

from crnn_search.errors import InputError
from crnn_search.storage.files import atomic_write, read_json, write_json, write_text


def test_json_is_read_as_written(tmp_path: Path) -> None:
    path, value = tmp_path / "new" / "a.json", {"name": "größer", "values": [1.5, None]}
    write_json(path, value)
    assert read_json(path) == value
    assert "größer" in path.read_text(encoding="utf-8")
    assert path.stat().st_mode & 0o777 == 0o644


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
    ("content", "message"), [(b"{", "Expecting property name"), (b"\xff", "codec can't decode")]
)
def test_a_file_that_is_not_json_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"cannot read .*a\.json: .*{message}"):
        read_json(path)


def test_a_missing_json_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*a\.json: .*No such file"):
        read_json(tmp_path / "a.json")
