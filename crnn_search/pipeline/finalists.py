"""Which trials become finalists, and which finalist wins."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from crnn_search.data.sequences import derive_seed
from crnn_search.errors import RunError
from crnn_search.pipeline.stage import run_stage
from crnn_search.storage import stages
from crnn_search.storage.files import write_json
from crnn_search.storage.ledger import ranked
from crnn_search.storage.trial import METRIC, Trial, TrialRecord, TrialState, trial_name
from crnn_search.tuning.context import Context


def select(records: Iterable[TrialRecord], count: int) -> list[TrialRecord]:
    """The best `count` full-budget trials, best first; without any, the longest-trained one.

    Raises:
        RunError: no trial has a validation RMSE.
    """
    records = list(records)
    best = ranked(records)
    if not best:
        reasons = sorted({record.reason or "no reason recorded" for record in records})
        raise RunError("no trial has a validation RMSE:\n" + "\n".join(f"  {r}" for r in reasons))
    full = [record for record in best if record.state == TrialState.COMPLETE]
    return (full or best[:1])[:count]


def choose(finalists: Sequence[TrialRecord], context: Context) -> dict[str, Any]:
    """Repeat each finalist with new seeds; the lowest mean validation RMSE wins.

    A finalist's validation RMSE in the search does not count: as the best of many it is biased
    low. A single finalist is not repeated. A finalist loses if one of its repetitions fails, since
    the winner has to train reliably. Writes `finalists.json` and `best.json`, whose content it
    returns: the winner's `number`, flat `config` and `validation_rmse`.

    Raises:
        InterruptedRun: the user stopped it.
        RunError: a repetition of every finalist failed.
        StorageError: the run's folder or object store cannot be written.
    """
    repeats = context.space.retrain.seeds if len(finalists) > 1 else 0
    trials = [
        _repetition(context, finalist, place * repeats + k, k)
        for place, finalist in enumerate(finalists)
        for k in range(repeats)
    ]
    records = run_stage(context, "finalists", "finalists", trials) if trials else []
    rows = [
        _row(finalist, records[place * repeats : (place + 1) * repeats])
        for place, finalist in enumerate(finalists)
    ]
    rows.sort(key=lambda row: math.inf if row[METRIC] is None else row[METRIC])
    if rows[0][METRIC] is None:
        raise RunError(f"no finalist trains reliably: {rows[0]['failure']}")
    winner = {name: rows[0][name] for name in ("number", "config", METRIC)}
    with context.run.changes():
        write_json(context.run.finalists, {"finalists": rows, "repeats": repeats})
        write_json(context.run.best, winner)
        stages.record(context.run, stages.FINALISTS, (context.run.finalists, context.run.best))
    return winner


def _repetition(context: Context, finalist: TrialRecord, number: int, k: int) -> Trial:
    """A finalist's trial with its k-th new seed."""
    search = context.space.search
    return Trial(
        name=f"{trial_name(finalist.trial.number)}-seed-{k}",
        number=number,
        config=finalist.trial.config,
        seed=derive_seed("finalist", search.seed, k) % 2**31,
        epochs=search.max_epochs,
        grace_epochs=search.grace_epochs,
        epoch_sequences=search.epoch_sequences,
        data=context.space.images.data,
        arithmetic=context.arithmetic,
    )


def _row(finalist: TrialRecord, repeated: Sequence[TrialRecord]) -> dict[str, Any]:
    """A finalist's row of `finalists.json`."""
    failed = [record for record in repeated if record.state != TrialState.COMPLETE]
    by_seed = [None if record in failed else record.last_rmse for record in repeated]
    valid = [rmse for rmse in by_seed if rmse is not None]
    return {
        "number": finalist.trial.number,
        "config": finalist.trial.config.to_dict(),
        "search_validation_rmse": finalist.final_rmse,
        "seeds": [record.trial.seed for record in repeated],
        "validation_rmse_by_seed": by_seed,
        METRIC: None if failed else statistics.fmean(valid or [finalist.final_rmse]),
        "failure": failed[0].reason if failed else None,
        "arithmetics": sorted({name for record in repeated for name in record.arithmetics}),
        "core_seconds": round(sum(record.core_seconds for record in repeated), 3),
        "gpu_seconds": round(sum(record.gpu_seconds for record in repeated), 3),
    }
