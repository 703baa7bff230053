"""`trials.jsonl`: the append-only ledger of a search, one line of JSON for each trial that ended.

Keys of a line: those of `Trial` and of `TrialRecord`, see `storage.trial`, in one flat mapping. In
short: `number`, `state` (COMPLETE: ran to its full budget, PRUNED: stopped early, FAIL),
`reason` why it was stopped or failed, `config`, `validation_rmse` and `train_loss` by epoch,
`arithmetics`, `node`, `device`, `seconds`, `core_seconds`, `gpu_seconds`, `seed`, `checkpoint`.
A line of state INFEASIBLE has `number`, `config` and `reason` only.

Report, warm start and `status` read it without Ray.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crnn_search.errors import InputError
from crnn_search.storage import jsonl
from crnn_search.storage.checks import ALTERED, altered_line
from crnn_search.storage.jsonl import Record
from crnn_search.storage.trial import InfeasibleTrial, TrialRecord, TrialState, trial_name
from crnn_search.text import figure

WORDS = {
    TrialState.COMPLETE: "completed",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
}
"""The report's word for each state in which a trial that ran can end."""


ENDED = ("completed", "stopped", "cut", "failed")
"""Keys of `outcomes` that count trials that ran."""


@dataclass(frozen=True)
class Ledger:
    """The ended trials of a search by number, and the infeasible ones."""

    trials: list[TrialRecord] = field(default_factory=list)
    infeasible: list[InfeasibleTrial] = field(default_factory=list)


def read(path: Path) -> Ledger:
    """All lines of a ledger.

    Raises:
        InputError: it cannot be read or was altered; names the file and the line.
    """
    ledger = Ledger()
    lines: dict[int, int] = {}
    for number, line in enumerate(jsonl.read(path), start=1):
        try:
            _add(line, ledger)
        except ALTERED as error:
            raise altered_line(path, number, "a trial", error) from error
        if (first := lines.setdefault(line["number"], number)) != number:
            raise InputError(
                f"lines {first} and {number} of {path} are of the same trial, "
                f"{trial_name(line['number'])}; remove one of them"
            )
    ledger.trials.sort(key=lambda record: record.trial.number)
    ledger.infeasible.sort(key=lambda trial: trial.number)
    return ledger


def ranked(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The trials that have not failed, best first: the one rule for what is a better trial.

    Full-budget trials first, then the longest-lived; among equals by last validation RMSE, then by
    number. A trial without a finite last validation RMSE has no rank.
    """
    usable = [
        record
        for record in records
        if record.last_rmse is not None
        and record.failure is None
        and record.state != TrialState.FAIL
    ]
    return sorted(usable, key=lambda r: (-len(r.validation_rmse), r.final_rmse, r.trial.number))


def outcomes(ledger: Ledger) -> dict[str, Any]:
    """How many trials completed, were stopped, cut, failed or infeasible, and why they failed.

    Early stopping stopped some, the budget's end cut others: those have a reason, see `is_cut`.
    `failures` has `reason`, `count` and trial `numbers`, the most frequent reason first.
    """
    by_reason: dict[str, list[int]] = {}
    for record in ledger.trials:
        if record.state == TrialState.FAIL:
            reason = record.reason or "no reason recorded"
            by_reason.setdefault(reason, []).append(record.trial.number)
    failures = [
        {"reason": reason, "count": len(numbers), "numbers": numbers}
        for reason, numbers in sorted(by_reason.items(), key=lambda item: -len(item[1]))
    ]
    counts = {
        word: sum(record.state == state for record in ledger.trials)
        for state, word in WORDS.items()
    }
    counts["cut"] = sum(map(is_cut, ledger.trials))
    counts["stopped"] -= counts["cut"]
    return {**counts, "infeasible": len(ledger.infeasible), "failures": failures}


def is_cut(record: TrialRecord) -> bool:
    """Whether a trial ended because the search did; early stopping gives no reason."""
    return record.state == TrialState.PRUNED and record.reason is not None


def state_words(record: TrialRecord) -> str:
    """How a trial ended: completed, stopped early, cut or failed; unfinished if it has not."""
    if is_cut(record):
        return "cut"
    return _STATE_WORDS[record.state]


def rmse_words(record: TrialRecord) -> str:
    """A trial's last errors, as far as they are known: of validation and of training."""
    errors = {"validation RMSE": record.last_rmse, "train RMSE": record.train_rmse}
    return ", ".join(f"{name} {figure(x)}" for name, x in errors.items() if x is not None)


_STATE_WORDS = {
    TrialState.RUNNING: "unfinished",
    TrialState.COMPLETE: "completed",
    TrialState.PRUNED: "stopped early",
    TrialState.FAIL: "failed",
}


def spent(trials: Sequence[TrialRecord], key: str) -> dict[str, float]:
    """Sum of `core_seconds` or `gpu_seconds` over completed, stopped and failed trials."""
    return {
        word: float(sum(getattr(record, key) for record in trials if record.state == state))
        for state, word in WORDS.items()
    }


def saved_share(trials: Sequence[TrialRecord], max_epochs: int) -> float | None:
    """The share of epochs that early stopping saved; None if no trial completed or was stopped.

    Of the epochs that completed and stopped trials would have taken at the full budget of
    `max_epochs`, those that were not trained. Trials that failed or were cut do not count.
    """
    counted = [r for r in trials if r.state != TrialState.FAIL and not is_cut(r)]
    epochs = [len(r.validation_rmse) for r in counted]
    return 1 - sum(epochs) / (max_epochs * len(epochs)) if epochs else None


def _add(line: Record, ledger: Ledger) -> None:
    """Add what a line holds to the ledger."""
    if line["state"] == TrialState.INFEASIBLE:
        ledger.infeasible.append(InfeasibleTrial.from_dict(line))
    else:
        record = TrialRecord.from_dict(line)
        if record.trial.name != trial_name(record.trial.number):
            raise ValueError(
                f"name must be {trial_name(record.trial.number)}, got {record.trial.name}"
            )
        ledger.trials.append(record)
