from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn_search import ledger
from crnn_search.errors import InputError

RECORDS = st.lists(
    st.fixed_dictionaries(
        {"number": st.integers(0, 999), "reason": st.none() | st.text(max_size=12)}
    ),
    min_size=1,
    max_size=5,
)


def record(number: int, state: str = "COMPLETE", epochs: int = 4, **more: Any) -> ledger.Record:
    values = [2.0 - 0.1 * epoch for epoch in range(epochs)]
    return {
        "number": number, "state": state, "reason": None, "values": values,
        "core_seconds": 10.0 * epochs, "gpu_seconds": 2.5 * epochs, **more,
    }  # fmt: skip


def test_what_was_appended_is_read(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    records = [record(0), record(1, values=[1.5, None], reason="zu groß\nund krumm")]
    for item in records:
        ledger.append(path, item)
    assert ledger.read_ledger(path) == records
    assert path.read_bytes().count(b"\n") == 2


@settings(max_examples=60, deadline=None)
@given(records=RECORDS, data=st.data())
def test_a_file_cut_at_any_byte_keeps_all_earlier_lines_and_goes_on(
    records: list[ledger.Record], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "trials.jsonl"
    ends = []
    for item in records:
        ledger.append(path, item)
        ends.append(path.stat().st_size)
    cut = data.draw(st.integers(0, ends[-1]))
    path.write_bytes(path.read_bytes()[:cut])
    whole = records[: sum(end <= cut for end in ends)]
    assert ledger.read_ledger(path) == whole
    ledger.append(path, {"number": 1000})
    assert ledger.read_ledger(path) == [*whole, {"number": 1000}]


def test_a_line_is_written_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trials.jsonl"
    ledger.append(path, record(0))
    with monkeypatch.context() as patch:
        patch.setattr("crnn_search.ledger.os.write", lambda handle, line: len(line) - 1)
        with pytest.raises(OSError, match="only a part of a line could be written"):
            ledger.append(path, record(1))
    assert ledger.read_ledger(path) == [record(0)]


def test_a_number_that_is_none_is_refused_and_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    ledger.append(path, record(0))
    with pytest.raises(ValueError, match="not JSON compliant"):
        ledger.append(path, record(1, values=[math.nan]))
    assert ledger.read_ledger(path) == [record(0)]


@pytest.mark.parametrize(
    ("line", "message"),
    [("{broken", "line 2 of .* is no JSON"), ("[1]", r"line 2 of .* must be a JSON object, got")],
)
def test_an_altered_line_is_an_error(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "trials.jsonl"
    path.write_text('{"number": 0}\n' + line + '\n{"number": 2}\n')
    with pytest.raises(InputError, match=message):
        ledger.read_ledger(path)


def test_a_missing_ledger_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*trials\.jsonl: No such file"):
        ledger.read_ledger(tmp_path / "trials.jsonl")


def test_a_trial_that_ran_again_counts_once_with_its_last_line() -> None:
    records = [record(1, "FAIL"), record(0), record(1)]
    assert ledger.last_of_each(records) == [record(0), record(1)]


def test_outcomes_count_states_and_reasons() -> None:
    records = [
        record(0), record(1, "PRUNED"), record(2, "FAIL"), record(3, "FAIL", reason="diverged"),
        record(4, "FAIL", reason="diverged"), record(5, "PRUNED"),
        record(6, "FAIL", reason="infeasible: no pixels"),
    ]  # fmt: skip
    assert ledger.outcomes(records) == {
        "completed": 1,
        "stopped": 2,
        "failed": 3,
        "infeasible": 1,
        "failures": [
            {"reason": "diverged", "count": 2, "numbers": [3, 4]},
            {"reason": "no reason recorded", "count": 1, "numbers": [2]},
        ],
    }


def test_spent_adds_up_by_outcome() -> None:
    records = [record(0), record(1), record(2, "PRUNED", 1), record(3, "FAIL", 2)]
    assert ledger.spent(records, "core_seconds") == {
        "completed": 80.0, "stopped": 10.0, "failed": 20.0,
    }  # fmt: skip
    assert ledger.spent(records, "gpu_seconds")["completed"] == 20.0


def test_saved_share_counts_epochs_not_trained() -> None:
    records = [record(0), record(1, "PRUNED", 1), record(2, "PRUNED", 2), record(3, "FAIL", 1)]
    assert ledger.saved_share(records, 4) == pytest.approx(1 - 7 / 12)
    assert ledger.saved_share(records[3:], 4) is None
