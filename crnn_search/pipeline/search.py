"""The search: Optuna proposes, ASHA stops, and the best full-budget trials become finalists."""

from __future__ import annotations

from collections.abc import Iterable

import optuna

from crnn_search.cluster.resources import Slots
from crnn_search.data.sequences import Digits
from crnn_search.pipeline.finalists import finalists
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage.journal import History, Journal
from crnn_search.storage.run_folder import RunPaths
from crnn_search.storage.trial import JobRecord
from crnn_search.tuning import tuner, warm_start
from crnn_search.tuning.budget import Limit
from crnn_search.tuning.callback import Recorder
from crnn_search.tuning.progress import Progress
from crnn_search.tuning.scheduler import FiniteAsha
from crnn_search.tuning.searcher import StudySearch

STAGE = "search"


def run(
    space: SearchSpace,
    run: RunPaths,
    history: History,
    journal: Journal,
    digits: Digits,
    slots: Slots,
    limit: Limit,
    progress: Progress,
) -> list[JobRecord]:
    """Run the search, or the rest of it, and return the finalists, best first.

    digits: MNIST's 60,000 training images.

    Raises:
        InterruptedRun: the user stopped it.
        RunError: no trial lived to the end of an epoch.
        StorageError: the run's folder cannot be written.
    """
    spec = space.search
    journal.write("stage", stage=STAGE)
    records = list(history.records(STAGE).values())
    recorder = Recorder(STAGE, run, journal, progress, records, limit)
    progress.stage(STAGE, spec.trials, spec.max_epochs, records)
    scheduler = FiniteAsha(
        spec.max_epochs,
        spec.grace_epochs,
        spec.reduction_factor,
        may_go_on=lambda: recorder.limit_reached() is None,
    )
    replay(records, scheduler, recorder)
    searcher = StudySearch(space, records, recorder, warm_start.read(space, run.warm_start))
    try:
        tuner.run_search(digits, run, searcher, scheduler, slots, recorder)
    finally:
        mirror_study(searcher.study, run, progress)
    return finalists(recorder.records.values(), space.retrain.finalists)


def replay(records: Iterable[JobRecord], scheduler: FiniteAsha, recorder: Recorder) -> None:
    """Fill the rungs again, and end those trials that only their last line is missing of."""
    running = []
    for record in records:
        if record.state:
            scheduler.replay(record)
        else:
            running.append(record)
    for record in running:
        if scheduler.replay(record) and record.epochs:
            recorder.settle(record)
            recorder.raise_error()


def mirror_study(study: optuna.Study, run: RunPaths, progress: Progress) -> None:
    """Copy the study into an SQLite file for Optuna's dashboard; nothing ever reads it back."""
    try:
        run.study.unlink(missing_ok=True)
        optuna.copy_study(
            from_study_name=study.study_name,
            from_storage=study._storage,
            to_storage=f"sqlite:///{run.study}",
            to_study_name=run.name,
        )
    except (OSError, optuna.exceptions.StorageInternalError) as error:
        progress.note(f"the copy for Optuna's dashboard, {run.study}, was not written: {error}")
