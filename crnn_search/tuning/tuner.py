"""The Ray side that a search and a retraining share: connect, divide the resources, run jobs."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from typing import Any

from ray import tune

from crnn_search.cluster.resources import Room, Slots
from crnn_search.data.sequences import Digits
from crnn_search.errors import InterruptedRun
from crnn_search.storage.run_folder import RunPaths
from crnn_search.storage.trial import Job
from crnn_search.tuning.callback import Recorder
from crnn_search.tuning.scheduler import FiniteAsha
from crnn_search.tuning.searcher import JobQueue, StudySearch
from crnn_search.tuning.trainable import DigitSumTrainable


def run_search(
    digits: Digits,
    run: RunPaths,
    searcher: StudySearch,
    scheduler: FiniteAsha,
    slots: Slots,
    recorder: Recorder,
) -> None:
    """Let the searcher propose and the scheduler stop trials until the searcher has finished.

    Raises:
        InterruptedRun: the user stopped the search.
        CrnnSearchError: the recorder's error, if it had one.
    """
    searcher.room = Room(slots)
    config = tune.TuneConfig(search_alg=searcher, scheduler=scheduler, **_ALWAYS)
    _fit(digits, run, config, slots, recorder)
    if not searcher.finished:
        raise _interrupted(run)


def run_jobs(
    digits: Digits, run: RunPaths, jobs: Sequence[Job], slots: Slots, recorder: Recorder
) -> None:
    """Run fixed jobs, in order, as many at once as fit.

    Raises:
        InterruptedRun: the user stopped them.
        CrnnSearchError: the recorder's error, if it had one.
    """
    queue = JobQueue(jobs, recorder)
    _fit(digits, run, tune.TuneConfig(search_alg=queue, **_ALWAYS), slots, recorder)
    if not queue.finished:
        raise _interrupted(run)


def _fit(
    digits: Digits, run: RunPaths, config: tune.TuneConfig, slots: Slots, recorder: Recorder
) -> None:
    """Run Tune with its own files in a folder that is thrown away: nothing is read from them."""
    run.checkpoints.mkdir(exist_ok=True)  # trials make none: see `patience`
    trainable = tune.with_parameters(
        DigitSumTrainable,
        images=digits.images.numpy(),
        labels=digits.labels.numpy(),
        checkpoints=run.checkpoint_location,
    )
    resources = functools.partial(_resources, slots)
    with tempfile.TemporaryDirectory(prefix="crnn-search-") as folder:
        tuner = tune.Tuner(
            tune.with_resources(trainable, resources),
            tune_config=config,
            run_config=tune.RunConfig(
                name="tune",
                storage_path=folder,
                callbacks=[recorder],
                # Without it Tune would save at a trial's end, to a folder no other node sees.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        except Exception:
            if recorder.error:
                raise recorder.error from None
            raise


_ALWAYS: dict[str, Any] = {
    "num_samples": -1,  # the searcher says when it has finished
    "reuse_actors": True,
    "trial_name_creator": lambda trial: str(trial.config["job"]["name"]),
    "trial_dirname_creator": lambda trial: str(trial.trial_id),  # a job may come again
}


def _resources(slots: Slots, config: dict[str, Any]) -> tune.PlacementGroupFactory:
    gpus = config["job"]["gpus"]
    return tune.PlacementGroupFactory(
        [{"CPU": slots.cpus, "GPU": slots.gpus if gpus is None else gpus}]
    )


def _interrupted(run: RunPaths) -> InterruptedRun:
    return InterruptedRun(
        f"everything so far is kept; go on with\n  crnn-search resume {run.location}"
    )
