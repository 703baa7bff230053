"""Append-only files: complete lines survive any crash."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crnn_search.errors import InputError
from crnn_search.storage import jsonl

RECORDS = st.lists(
    st.fixed_dictionaries(
        {"number": st.integers(0, 999), "reason": st.none() | st.text(max_size=12)}
    ),
    min_size=1,
    max_size=5,
)


def record(number: int) -> jsonl.Record:
    return {"number": number, "validation_rmse": [1.5, None], "reason": None}


def test_appended_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    records = [record(0), record(1) | {"reason": "zu groß\nund krumm"}]
    for item in records:
        jsonl.append(path, item)
    assert jsonl.read(path) == records
    assert path.read_bytes().count(b"\n") == 2


def test_a_lone_surrogate_is_written_as_its_escape(tmp_path: Path) -> None:
    path, item = tmp_path / "trials.jsonl", {"reason": "caf\udce9"}
    jsonl.append(path, item)
    jsonl.append(path, {"reason": "\ud800"})  # no byte of a file name
    assert path.read_bytes() == b'{"reason": "caf\\udce9"}\n{"reason": "?"}\n'
    assert jsonl.read(path) == [item, {"reason": "?"}]


@given(records=RECORDS, data=st.data())
def test_a_file_cut_at_any_byte_keeps_its_complete_lines_and_can_be_appended_to(
    records: list[jsonl.Record], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "trials.jsonl"
    ends = []
    for item in records:
        jsonl.append(path, item)
        ends.append(path.stat().st_size)
    cut = data.draw(st.integers(0, ends[-1]))
    path.write_bytes(path.read_bytes()[:cut])
    complete = records[: sum(end <= cut for end in ends)]
    assert jsonl.read(path) == complete
    jsonl.append(path, {"number": 1000})
    assert jsonl.read(path) == [*complete, {"number": 1000}]


def test_a_line_that_does_not_fit_on_the_disk_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "trials.jsonl"
    jsonl.append(path, record(0))
    with monkeypatch.context() as patch:
        patch.setattr("crnn_search.storage.jsonl.os.write", lambda handle, line: len(line) - 1)
        with pytest.raises(OSError, match="No space left on device"):
            jsonl.append(path, record(1))
    assert jsonl.read(path) == [record(0)]


def test_nan_is_refused_and_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    jsonl.append(path, record(0))
    with pytest.raises(ValueError, match="not JSON compliant"):
        jsonl.append(path, record(1) | {"validation_rmse": [math.nan]})
    assert jsonl.read(path) == [record(0)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "line 2 of .* is not valid JSON"),
        ("[1]", r"line 2 of .* must be a JSON object, got"),
    ],
)
def test_an_altered_line_is_an_error(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "trials.jsonl"
    path.write_text('{"number": 0}\n' + line + '\n{"number": 2}\n')
    with pytest.raises(InputError, match=message):
        jsonl.read(path)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*trials\.jsonl: No such file"):
        jsonl.read(tmp_path / "trials.jsonl")
