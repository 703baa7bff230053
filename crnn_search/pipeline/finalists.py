"""Who becomes a finalist, and which finalist wins."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from crnn_search.data.sequences import derive_seed
from crnn_search.errors import RunError
from crnn_search.pipeline.stage import Stage
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage.files import write_json
from crnn_search.storage.trial import Job, JobRecord


def choose(finalists: Sequence[JobRecord], stage: Stage) -> dict[str, Any]:
    """Repeat each finalist with new seeds; the lowest mean validation RMSE wins.

    A finalist's value from the search does not count: being the best of many, it is too good to be
    true. A single finalist is not repeated. One of whose repetitions fails has lost, since what is
    retrained must train reliably. Returns the winner: `number`, flat `config`, `rmse`.

    Raises:
        InterruptedRun: the user stopped it.
        RunError: a repetition of every finalist failed.
    """
    space = stage.space
    repeats = space.retrain.seeds if len(finalists) > 1 else 0
    jobs = [
        _search_job(space, finalist, place * repeats + k, k)
        for place, finalist in enumerate(finalists)
        for k in range(repeats)
    ]
    records = stage.finish("finalists", "finalists", jobs) if jobs else []
    rows = [
        _row(finalist, records[place * repeats : (place + 1) * repeats])
        for place, finalist in enumerate(finalists)
    ]
    rows.sort(key=lambda row: math.inf if row["rmse"] is None else row["rmse"])
    if rows[0]["rmse"] is None:
        raise RunError(f"no finalist trains reliably: {rows[0]['failure']}")
    write_json(stage.run.finalists, {"finalists": rows, "repeats": repeats})
    winner = {name: rows[0][name] for name in ("number", "config", "rmse")}
    write_json(stage.run.best, winner)
    stage.run.push()
    return winner


def _search_job(space: SearchSpace, finalist: JobRecord, number: int, k: int) -> Job:
    search = space.search
    return Job(
        name=f"trial-{finalist.job.number:04d}-seed-{k}",
        number=number,
        config=finalist.job.config,
        seed=derive_seed("finalist", search.seed, k) % 2**31,
        epochs=search.max_epochs,
        grace_epochs=search.grace_epochs,
        epoch_sequences=search.epoch_sequences,
        max_digits=space.task.max_digits,
    )


def _row(finalist: JobRecord, repeated: Sequence[JobRecord]) -> dict[str, Any]:
    """A finalist's entry in `finalists.json`; no `rmse` if one of its repetitions failed."""
    failed = [record for record in repeated if record.state != "COMPLETE"]
    values = [None if record in failed else record.last for record in repeated]
    sound = [value for value in values if value is not None]
    return {
        "number": finalist.job.number,
        "config": finalist.job.config,
        "search_rmse": finalist.last,
        "seeds": [record.job.seed for record in repeated],
        "rmse_by_seed": values,
        "rmse": None if failed else statistics.fmean(sound or [finalist.last]),
        "failure": failed[0].reason if failed else None,
        "core_seconds": round(sum(record.core_seconds for record in repeated), 3),
        "gpu_seconds": round(sum(record.gpu_seconds for record in repeated), 3),
    }


def finalists(records: Iterable[JobRecord], count: int) -> list[JobRecord]:
    """The best trials by last validation RMSE: full-budget ones first, then the longest-lived.

    Raises:
        RunError: every trial failed.
    """
    records = list(records)
    sound = [r for r in records if r.state in {"COMPLETE", "PRUNED"} and r.values[-1] is not None]
    if not sound:
        reasons = sorted({record.reason or "no reason given" for record in records})
        raise RunError("no trial lived to give a result:\n" + "\n".join(f"  {r}" for r in reasons))
    sound.sort(key=lambda record: (-len(record.values), record.last, record.job.number))
    full = [record for record in sound if record.state == "COMPLETE"]
    return (full or sound[:1])[:count]
