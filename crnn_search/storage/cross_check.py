"""Journal and ledger say the same of a search: each is checked against the other.

The end of a trial is written to the journal first, then to the ledger. So a crash leaves the ledger
at most a line behind. Whatever else one of them lacks, a person or a broken disk took away: it is
taken from the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crnn_search.errors import InputError
from crnn_search.storage.jsonl import Record
from crnn_search.storage.ledger import Ledger
from crnn_search.storage.trial import InfeasibleTrial, TrialRecord, trial_name

MAX_NAMES = 3
"""How many trials a note names; the others are counted."""

Ended = TrialRecord | InfeasibleTrial


@dataclass
class Search:
    """What journal and ledger together say of a search's trials.

    trials: by number, in the order of their creation. infeasible: by number.
    unlisted: those that the ledger lacks, in the order of their end. notes: what one of the two
    lacks, for the user.
    """

    trials: dict[int, TrialRecord]
    infeasible: dict[int, InfeasibleTrial]
    unlisted: list[Ended] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def cross_check(journal: Path, ledger: Path, search: Search, listed: Ledger) -> None:
    """Check what the journal says of a search against the ledger, and complete it.

    journal, ledger: for messages. search: the journal's trials; `unlisted` all that ended.

    Raises:
        InputError: they contradict each other, or a trial is in neither; names both files.
    """
    lost = []
    known: Ended | None
    lines: list[Ended] = [*listed.trials, *listed.infeasible]
    for line in lines:
        number = number_of(line)
        if isinstance(line, TrialRecord):
            known = search.trials.get(number)
            behind = known is None or _is_behind(known, line)
            if behind:
                search.trials[number] = line
        else:
            known = search.infeasible.get(number)
            behind = known is None and number not in search.trials
            if behind:
                search.infeasible[number] = line
        if behind:
            lost.append(number)
        elif known is None or known.to_dict() != line.to_dict():
            raise _contradiction(journal, ledger, line, known)
    inside = {number_of(line) for line in lines}
    search.unlisted = [ended for ended in search.unlisted if number_of(ended) not in inside]
    missing = [number_of(ended) for ended in search.unlisted]
    _note(search, ledger, journal, missing)
    _note(search, journal, ledger, lost)
    if journal.exists():
        _check_numbers(journal, ledger, search)


def number_of(ended: Ended) -> int:
    """The number of a trial."""
    return ended.number if isinstance(ended, InfeasibleTrial) else ended.trial.number


def _is_behind(known: TrialRecord, line: TrialRecord) -> bool:
    """Whether the journal's record is the beginning of the ledger's."""
    epochs = known.epochs
    return (
        not known.ended
        and known.trial.same_training(line.trial)
        and known.train_loss == line.train_loss[:epochs]
        and known.validation_rmse == line.validation_rmse[:epochs]
    )


def _contradiction(journal: Path, ledger: Path, line: Ended, known: Ended | None) -> InputError:
    ours: Record = {} if known is None else known.to_dict()
    differing = [name for name, value in line.to_dict().items() if ours.get(name) != value]
    return InputError(
        f"{ledger} and {journal.name} differ in {trial_name(number_of(line))}: "
        f"{', '.join(differing)}; if the ledger was altered, remove {ledger}, and crnn-search "
        "resume writes it again; if the journal was, restore it from a copy"
    )


def _note(search: Search, file: Path, other: Path, numbers: Sequence[int]) -> None:
    if numbers:
        names = _names(numbers)
        search.notes.append(f"{file} lacks the end of {names}; taken from {other.name}")


def _names(numbers: Iterable[int]) -> str:
    names = [trial_name(number) for number in sorted(numbers)]
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


def _check_numbers(journal: Path, ledger: Path, search: Search) -> None:
    """Trials are numbered from 0 on, the infeasible ones too, and none is left out."""
    numbers = search.trials.keys() | search.infeasible.keys()
    both = search.trials.keys() & search.infeasible.keys()
    if max(numbers, default=-1) >= len(numbers):
        missing = next(number for number in itertools.count() if number not in numbers)
        raise InputError(
            f"{journal} and {ledger.name} lack {trial_name(missing)}: both were cut or altered; "
            "restore one of them from a copy"
        )
    if both:
        raise InputError(
            f"{journal} and {ledger.name} have {_names(both)} both as a trial that ran and as an "
            "infeasible one; restore them from a copy"
        )
