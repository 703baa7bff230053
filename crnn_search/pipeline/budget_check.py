"""What a budget is too small for, said before the search starts."""

from __future__ import annotations

from crnn_search.cluster.pace import measure_pace
from crnn_search.errors import InputError
from crnn_search.storage.journal import SEARCH
from crnn_search.tuning.budget import Budget, Limit
from crnn_search.tuning.context import Context


def check_budget(limit: Limit, context: Context) -> None:
    """Tell the user if finalists and retraining alone will exceed the budget of a run.

    At the pace of the run's best trials or, before the first has trained, at a measured one.

    Raises:
        InputError: the budget was used up before the first trial could start.
    """
    if limit.budget == Budget():
        return
    allocation, note = context.allocation, context.progress.note
    if limit.budget.gpu_seconds is not None and not allocation.gpus:
        note("the budget of GPU time limits nothing: trials run on CPUs; use corehours")
    records = list(context.history.records(SEARCH).values())
    trained = [record for record in records if record.epochs]
    if not records and (reason := limit.reached([])):
        raise InputError(f"{reason} before the first trial starts; give a larger one")
    paces = limit.paces(trained)
    if not trained:
        context.progress.doing("measuring how fast trials train")
        pace = measure_pace(context.space, context.task, allocation, context.arithmetic) or 0.0
        paces = {
            "time_s": pace,
            "core_seconds": pace * allocation.cpus,
            "gpu_seconds": pace * allocation.gpus,
        }
    if reason := limit.shortage(paces):
        note(f"{reason}: the run will exceed it")
