"""What a session does first: clean up after one that ended at any moment."""

from __future__ import annotations

from collections.abc import Callable

from crnn_search.errors import InputError
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage import temporary
from crnn_search.storage.journal import SEARCH, History, append, read_history
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import TrialRecord
from crnn_search.tuning import checkpoints


def recover(run: RunFolder, note: Callable[[str], None]) -> History:
    """The history of a run whose lease this process holds, its files made consistent with it.

    Temporary files of sessions that were killed are removed, lines that the ledger lacks are
    written, and so are no checkpoints left that the history does not lead to. note: tells the user.

    Raises:
        InputError: journal or ledger cannot be read, were altered or contradict each other.
        StorageError: the run's folder or object store cannot be written.
    """
    temporary.remove_dead_folders()
    temporary.remove_unfinished(run.root)
    history = read_history(run.journal, run.ledger)
    for text in history.notes:
        note(text)
    for ended in history.unlisted:
        append(run, run.ledger, ended.to_dict(), note)
    records: dict[str, TrialRecord] = {}
    for of_stage in history.stages.values():
        records |= of_stage
    checkpoints.tidy(run, records)
    return history


def check_space(run: RunFolder, space: SearchSpace, history: History) -> None:
    """Check that the trials of a search are of its space, which nobody may change.

    Raises:
        InputError: one is not; names it, the space's file and the value.
    """
    tried = [(record.trial.name, record.trial.config.to_dict()) for record in _search(history)]
    tried += [(f"infeasible trial {trial.number}", trial.config) for trial in history.infeasible]
    for name, config in tried:
        if problems := space.problems_of(config):
            raise InputError(
                f"{name} of {run.location_of(run.journal)} is not in the space of "
                f"{run.location_of(run.space)}, one of which was altered: {problems[0]}"
            )


def _search(history: History) -> list[TrialRecord]:
    return list(history.records(SEARCH).values())
