"""Append-only files: whole lines survive any crash."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn_search import lines
from crnn_search.errors import InputError

RECORDS = st.lists(
    st.fixed_dictionaries(
        {"number": st.integers(0, 999), "reason": st.none() | st.text(max_size=12)}
    ),
    min_size=1,
    max_size=5,
)


def record(number: int) -> lines.Record:
    return {"number": number, "values": [1.5, None], "reason": None}


def test_what_was_appended_is_read(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    records = [record(0), record(1) | {"reason": "zu groß\nund krumm"}]
    for item in records:
        lines.append(path, item)
    assert lines.read(path) == records
    assert path.read_bytes().count(b"\n") == 2


@settings(max_examples=60, deadline=None)
@given(records=RECORDS, data=st.data())
def test_a_file_cut_at_any_byte_keeps_all_earlier_lines_and_goes_on(
    records: list[lines.Record], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "trials.jsonl"
    ends = []
    for item in records:
        lines.append(path, item)
        ends.append(path.stat().st_size)
    cut = data.draw(st.integers(0, ends[-1]))
    path.write_bytes(path.read_bytes()[:cut])
    whole = records[: sum(end <= cut for end in ends)]
    assert lines.read(path) == whole
    lines.append(path, {"number": 1000})
    assert lines.read(path) == [*whole, {"number": 1000}]


def test_a_line_is_written_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trials.jsonl"
    lines.append(path, record(0))
    with monkeypatch.context() as patch:
        patch.setattr("crnn_search.lines.os.write", lambda handle, line: len(line) - 1)
        with pytest.raises(OSError, match="No space left on device"):
            lines.append(path, record(1))
    assert lines.read(path) == [record(0)]


def test_a_number_that_is_none_is_refused_and_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    lines.append(path, record(0))
    with pytest.raises(ValueError, match="not JSON compliant"):
        lines.append(path, record(1) | {"values": [math.nan]})
    assert lines.read(path) == [record(0)]


@pytest.mark.parametrize(
    ("line", "message"),
    [("{broken", "line 2 of .* is no JSON"), ("[1]", r"line 2 of .* must be a JSON object, got")],
)
def test_an_altered_line_is_an_error(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "trials.jsonl"
    path.write_text('{"number": 0}\n' + line + '\n{"number": 2}\n')
    with pytest.raises(InputError, match=message):
        lines.read(path)


def test_a_missing_ledger_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*trials\.jsonl: No such file"):
        lines.read(tmp_path / "trials.jsonl")
