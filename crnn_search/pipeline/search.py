"""The search: Optuna proposes, ASHA stops, and the best full-budget trials become finalists."""

from __future__ import annotations

from collections.abc import Iterable

import optuna

from crnn_search.pipeline import finalists
from crnn_search.storage import ledger
from crnn_search.storage.journal import SEARCH
from crnn_search.storage.trial import TrialRecord
from crnn_search.tuning import tuner, warm_start
from crnn_search.tuning.budget import Limit
from crnn_search.tuning.callback import RunCallback
from crnn_search.tuning.context import Context
from crnn_search.tuning.scheduler import Asha
from crnn_search.tuning.searcher import StudySearcher


def run_search(context: Context, limit: Limit) -> list[TrialRecord]:
    """Run the search, or the rest of it; returns the finalists, best first.

    limit: when the budget is used up.

    Raises:
        InterruptedRun: the user stopped it.
        RunError: no trial has a validation RMSE.
        StorageError: the run's folder or object store cannot be written.
    """
    spec = context.space.search
    context.journal.write("stage", stage=SEARCH)
    records = list(context.history.records(SEARCH).values())
    callback = RunCallback(SEARCH, context, records, limit)
    context.progress.stage(SEARCH, spec.trials, spec.max_epochs, records)
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
    """Copy the study into an SQLite file for Optuna's dashboard; this package never reads it."""
    path = context.run.study
    try:
        path.unlink(missing_ok=True)
        copy = optuna.create_study(study_name=context.run.name, storage=f"sqlite:///{path}")
        copy.add_trials(study.get_trials(deepcopy=False))
    except (OSError, optuna.exceptions.StorageInternalError) as error:
        context.progress.note(f"cannot write the copy for Optuna's dashboard, {path}: {error}")
