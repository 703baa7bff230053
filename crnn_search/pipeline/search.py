"""The search: Optuna proposes, ASHA stops, and the best full-budget trials become finalists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from crnn_search.pipeline import finalists
from crnn_search.pipeline.stage import show_stage
from crnn_search.storage import ledger
from crnn_search.storage.journal import SEARCH
from crnn_search.storage.trial import TrialRecord
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
    tuner.run_search(context, searcher, scheduler, callback)
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
