"""`trials.jsonl`: the append-only ledger of a search, one line of JSON for each trial that ended.

Keys of a line:

    number        the trial's number in the study
    state         COMPLETE (ran to its full budget), PRUNED (stopped early) or FAIL
    reason        why it was stopped or failed, or null
    config        its whole configuration, flat
    values        validation RMSE after each epoch, the first epoch first; null is not a number
    node          the host it ran on
    device        the device it ran on
    seconds       seconds it trained, restarts included
    core_seconds  the same times the cores it held
    gpu_seconds   the same times the GPUs it held, or the share of one
    seed          of its weights and its draws
    checkpoint    its last checkpoint, or null

It stands alone: report, warm start and `status` need nothing of Ray's. `lines` reads and writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crnn_search.storage.jsonl import Record

INFEASIBLE = "infeasible: "
"""What the reason of a sampled network begins with that cannot be built and never ran."""

STATES = {"completed": "COMPLETE", "stopped": "PRUNED", "failed": "FAIL"}
"""Optuna's state for each word of the report."""


def outcomes(records: Sequence[Record]) -> dict[str, Any]:
    """How many trials completed, were stopped early and failed, and why they failed.

    Impossible networks that were sampled are `infeasible`; they never ran, so they have not failed.
    `failures` has `reason`, `count` and trial `numbers`, the most frequent reason first.
    """
    by_reason: dict[str, list[int]] = {}
    ran = [record for record in records if not (record["reason"] or "").startswith(INFEASIBLE)]
    for record in ran:
        if record["state"] == "FAIL":
            by_reason.setdefault(record["reason"] or "no reason recorded", []).append(
                record["number"]
            )
    failures = [
        {"reason": reason, "count": len(numbers), "numbers": numbers}
        for reason, numbers in sorted(by_reason.items(), key=lambda item: -len(item[1]))
    ]
    counts = {word: _count(ran, state) for word, state in STATES.items()}
    return {**counts, "infeasible": len(records) - len(ran), "failures": failures}


def spent(records: Sequence[Record], key: str) -> dict[str, float]:
    """Sum of `core_seconds` or `gpu_seconds` over completed, stopped and failed trials."""
    return {
        word: sum(record[key] for record in records if record["state"] == state)
        for word, state in STATES.items()
    }


def saved_share(records: Sequence[Record], max_epochs: int) -> float | None:
    """The share of epochs that early stopping saved; None if no trial completed or was stopped.

    Of the epochs that completed and stopped trials would have taken at the full budget of
    `max_epochs`, those that were not trained. Failed trials would have taken none of them.
    """
    ended = [len(record["values"]) for record in records if record["state"] != "FAIL"]
    return 1 - sum(ended) / (max_epochs * len(ended)) if ended else None


def _count(records: Sequence[Record], state: str) -> int:
    return sum(record["state"] == state for record in records)
