"""The search: Optuna proposes, ASHA stops, and the best full-budget trials become finalists."""

from __future__ import annotations

from collections.abc import Sequence

import optuna

from crnn_search import cluster
from crnn_search.cluster import Slots
from crnn_search.data import Digits
from crnn_search.errors import RunError
from crnn_search.paths import RunPaths
from crnn_search.progress import Progress
from crnn_search.recorder import JobRecord, Recorder
from crnn_search.scheduler import FiniteAsha
from crnn_search.searcher import StudySearch
from crnn_search.space import SearchSpace


def run(
    space: SearchSpace, run: RunPaths, digits: Digits, slots: Slots, progress: Progress
) -> list[JobRecord]:
    """Run the search and return the finalists, best first.

    digits: MNIST's 60,000 training images.

    Raises:
        InterruptedRun: the user stopped it.
        RunError: no trial lived to the end of an epoch.
    """
    spec = space.search
    progress.stage("search", spec.trials, spec.max_epochs)
    recorder = Recorder(run.root, run.tensorboard / "search", progress, run.ledger)
    searcher = StudySearch(space, recorder.infeasible)
    scheduler = FiniteAsha(spec.max_epochs, spec.grace_epochs, spec.reduction_factor)
    folder = run.tune / "search"
    try:
        records = cluster.run_search(
            digits, folder, searcher, scheduler, spec.trials, slots, recorder
        )
    finally:
        mirror_study(searcher.study, run)
    return finalists(records, space.retrain.finalists)


def finalists(records: Sequence[JobRecord], count: int) -> list[JobRecord]:
    """The best trials by last validation RMSE: full-budget ones first, then the longest-lived.

    Raises:
        RunError: every trial failed.
    """
    sound = [r for r in records if r.state in {"COMPLETE", "PRUNED"} and r.values[-1] is not None]
    if not sound:
        reasons = sorted({record.reason or "no reason given" for record in records})
        raise RunError("no trial lived to give a result:\n" + "\n".join(f"  {r}" for r in reasons))
    sound.sort(key=lambda record: (-len(record.values), record.values[-1], record.job.number))
    full = [record for record in sound if record.state == "COMPLETE"]
    return (full or sound[:1])[:count]


def mirror_study(study: optuna.Study, run: RunPaths) -> None:
    """Copy the study into an SQLite file for Optuna's dashboard; nothing ever reads it back."""
    run.study.unlink(missing_ok=True)
    optuna.copy_study(
        from_study_name=study.study_name,
        from_storage=study._storage,
        to_storage=f"sqlite:///{run.study}",
        to_study_name=run.name,
    )
