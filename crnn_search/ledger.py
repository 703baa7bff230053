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

A line is whole if it ends in a newline. A crash while writing leaves at most one torn line, the
last, which reading passes over and the next `append` removes.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crnn_search.errors import InputError

Record = dict[str, Any]

INFEASIBLE = "infeasible: "
"""What the reason of a sampled network begins with that cannot be built and never ran."""

STATES = {"completed": "COMPLETE", "stopped": "PRUNED", "failed": "FAIL"}
"""Optuna's state for each word of the report."""


def append(path: Path, record: Record) -> None:
    """Add one line, with a single write, and flush it to the disk. Only one process may append.

    Raises:
        OSError: the disk is full or cannot be written.
        ValueError: the record holds a number that is none; write null.
    """
    line = (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode()
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        _remove_torn_line(handle)
        if os.write(handle, line) < len(line):
            raise OSError(errno.ENOSPC, "only a part of a line could be written", str(path))
        os.fsync(handle)
    finally:
        os.close(handle)


def read_ledger(path: Path) -> list[Record]:
    """All whole lines, in the order they were written.

    Raises:
        InputError: the file cannot be read, or a whole line is no JSON object.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return [_parse(path, number, line) for number, line in enumerate(lines, start=1)]


def last_of_each(records: Sequence[Record]) -> list[Record]:
    """The last record of each trial, by trial number.

    A trial stands twice if the search crashed after its line was written and before Ray Tune had
    saved that it ended: the resumed search runs it again.
    """
    latest = {record["number"]: record for record in records}
    return [latest[number] for number in sorted(latest)]


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


def _parse(path: Path, number: int, line: bytes) -> Record:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise InputError(f"line {number} of {path} is no JSON: {error}") from error
    if not isinstance(record, dict):
        raise InputError(f"line {number} of {path} must be a JSON object, got {record!r}")
    return record


def _remove_torn_line(handle: int) -> None:
    size = os.fstat(handle).st_size
    if size and os.pread(handle, 1, size - 1) != b"\n":
        os.ftruncate(handle, os.pread(handle, size, 0).rfind(b"\n") + 1)
