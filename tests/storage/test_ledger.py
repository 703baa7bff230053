from __future__ import annotations

from typing import Any

import pytest

from crnn_search.storage import jsonl, ledger


def record(number: int, state: str = "COMPLETE", epochs: int = 4, **more: Any) -> jsonl.Record:
    values = [2.0 - 0.1 * epoch for epoch in range(epochs)]
    return {
        "number": number, "state": state, "reason": None, "values": values,
        "core_seconds": 10.0 * epochs, "gpu_seconds": 2.5 * epochs, **more,
    }  # fmt: skip


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
