"""The search: Optuna proposes, ASHA stops, and the best full-budget trials become finalists."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import optuna

from crnn_search.pipeline import finalists
from crnn_search.pipeline.stage import show_stage
from crnn_search.storage import ledger
from crnn_search.storage.files import atomic_write
from crnn_search.storage.journal import SEARCH
from crnn_search.storage.trial import TrialRecord
from crnn_search.text import first_line
from crnn_search.tuning import budget, tuner, warm_start
from crnn_search.tuning.budget import Limit
from crnn_search.tuning.callback import RunCallback
from crnn_search.tuning.context import Context
from crnn_search.tuning.scheduler import Asha
from crnn_search.tuning.searcher import StudySearcher


def run_search(context: Context, limit: Limit) -> list[TrialRecord]:
    """Run the search, or the rest of it; returns the finalists, best first.

    limit: when it ends early.

    Raises:
        InterruptedRun: the user stopped it.
        RunError: no trial has a validation RMSE.
        StorageError: the run's folder or object store cannot be written.
    """
    spec = context.space.search
    context.journal.write("stage", stage=SEARCH)
    records = list(context.history.records(SEARCH).values())
    callback = RunCallback(SEARCH, context, records, limit)
    size = budget.Stage(spec.trials, spec.max_epochs, spec.epoch_sequences)
    show_stage(context, SEARCH, SEARCH, size, _origin(context, records))
    scheduler = Asha(
        spec.max_epochs,
        spec.grace_epochs,
        spec.reduction_factor,
        may_continue=lambda: callback.limit_reached() is None,
    )
    replay(records, scheduler, callback)
    searcher = StudySearcher(
        context.space,
        context.arithmetic,
        callback,
        past=[*records, *context.history.infeasible],
        earlier=warm_start.read(context.space, context.run.warm_start),
    )
    try:
        tuner.run_search(context, searcher, scheduler, callback)
    finally:
        _copy_study(searcher.study, context)
    records = list(callback.records.values())
    shortened = len(records) < spec.trials or any(map(ledger.is_cut, records))
    if shortened and (reason := callback.limit_reached()):
        context.progress.note(f"the search has ended: {reason}")
    return finalists.select(records, context.space.retrain.finalists)


def _origin(context: Context, records: Sequence[TrialRecord]) -> str:
    """Why a search does not start from nothing."""
    if context.history.extension:
        return f"extended to {context.space.search.trials} trials"
    return "resumed" if records else ""


def replay(records: Iterable[TrialRecord], scheduler: Asha, callback: RunCallback) -> None:
    """Fill the rungs with an earlier session's trials, and end those that only lack their end."""
    running = []
    for record in records:
        if record.ended:
            scheduler.replay(record)
        else:
            running.append(record)
    for record in running:
        if scheduler.replay(record) and record.epochs:
            callback.finish(record)
            callback.raise_error()


def _copy_study(study: optuna.Study, context: Context) -> None:
    """Copy the study into an SQLite file for Optuna's dashboard; this package never reads it.

    Raises nothing: what ended the search counts more. SQLite writes to a temporary folder, since a
    run's folder may have no locks, or a name that a database's URL cannot hold.
    """
    path = context.run.study
    try:
        with tempfile.TemporaryDirectory(prefix="crnn-search-") as folder:
            file = Path(folder) / path.name
            copy = optuna.create_study(study_name=context.run.name, storage=f"sqlite:///{file}")
            copy.add_trials(study.get_trials(deepcopy=False))
            with atomic_write(path) as temporary:
                shutil.copyfile(file, temporary)
    except Exception as error:  # SQLAlchemy's have no nearer base
        reason = f"cannot write the copy for Optuna's dashboard, {path}: {first_line(error)}"
        context.progress.note(reason)
