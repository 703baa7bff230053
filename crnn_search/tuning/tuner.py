"""Runs the trials of a stage with Ray Tune."""

from __future__ import annotations

import contextlib
import functools
import logging
import signal
from collections.abc import Sequence
from typing import Any

from ray import tune

from crnn_search import signals
from crnn_search.cluster.resources import Allocation, Capacity
from crnn_search.errors import InterruptedRun
from crnn_search.storage import temporary
from crnn_search.storage.files import writing
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import Trial
from crnn_search.tuning import epoch_parts
from crnn_search.tuning.callback import RunCallback
from crnn_search.tuning.context import Context
from crnn_search.tuning.node_watch import NodeWatch
from crnn_search.tuning.scheduler import Asha
from crnn_search.tuning.searcher import StudySearcher
from crnn_search.tuning.trainable import TrialTrainable
from crnn_search.tuning.trial_queue import TrialQueue
from crnn_search.tuning.tune_trial import name_of

HINT = (
    "If this log ends without a message, the system or Ray has ended the process, as where a node "
    "is killed. What was recorded is kept; continue with %s"
)
"""Logged at the start of each stage: such an end cannot be caught."""

FALSE_ALARMS = ("ray.tune.analysis", "ray.tune.tune")
"""Loggers of Tune's whose warnings are of its own files. The first reads each trial's results from
files that nobody writes, see `RunCallback`; the second says how to restore a run from them."""

logger = logging.getLogger(__name__)


def run_search(
    context: Context, searcher: StudySearcher, scheduler: Asha, callback: RunCallback
) -> None:
    """Let the searcher suggest and the scheduler stop trials until the searcher has finished.

    Raises:
        InterruptedRun: the user stopped the search.
        RunError: no node was alive for a while.
        CrnnSearchError: the callback's error, if it had one.
    """
    searcher.capacity = Capacity(context.allocation)
    config = tune.TuneConfig(search_alg=searcher, scheduler=scheduler, **_ALWAYS)
    _fit(context, config, callback)
    if not searcher.finished:
        raise interrupted(context.run)


def run_trials(context: Context, trials: Sequence[Trial], callback: RunCallback) -> None:
    """Run fixed trials, in order, as many at once as fit.

    Raises:
        InterruptedRun: the user stopped them.
        RunError: no node was alive for a while.
        CrnnSearchError: the callback's error, if it had one.
    """
    queue = TrialQueue(trials, callback)
    _fit(context, tune.TuneConfig(search_alg=queue, **_ALWAYS), callback)
    if not queue.finished:
        raise interrupted(context.run)


def _fit(context: Context, config: tune.TuneConfig, callback: RunCallback) -> None:
    """Run Tune; what ends it early is raised."""
    run = context.run
    logger.info(HINT, run.resume_command)
    with NodeWatch(run.resume_command) as watch:
        try:
            with signals.kept(signal.SIGINT, signal.SIGUSR1):  # Tune leaves handlers behind
                _run_tune(context, config, callback)
        except KeyboardInterrupt:  # where Tune does not expect it
            raise watch.error or interrupted(run) from None
        except Exception:
            if error := callback.error or watch.error:
                raise error from None
            raise
    if watch.error or signals.asked_to_stop():
        raise watch.error or interrupted(run)


def _run_tune(context: Context, config: tune.TuneConfig, callback: RunCallback) -> None:
    """Run Tune with its own files in a folder that is removed: nothing is read from them."""
    run = context.run
    with writing(run.checkpoints):
        run.checkpoints.mkdir(exist_ok=True)  # trials do not create it: see `storage.retry`
    for name in FALSE_ALARMS:
        logging.getLogger(name).setLevel(logging.ERROR)
    resources = functools.partial(_resources, context.allocation)
    with temporary.folder() as folder, _board(context) as board:
        trainable = tune.with_parameters(
            TrialTrainable,
            task=context.task,
            checkpoints=run.checkpoint_location,
            board=board,
        )
        tune.Tuner(
            tune.with_resources(trainable, resources),
            tune_config=config,
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(folder),
                callbacks=[callback],
                # Without it Tune would save at a trial's end, to a folder no other node sees.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        ).fit()


def _board(context: Context) -> contextlib.AbstractContextManager[Any]:
    """Where trials tell how far they are within an epoch; None if that is not shown."""
    progress = context.progress
    if not progress.shows_parts():
        return contextlib.nullcontext()
    return epoch_parts.shown(progress.within)


_ALWAYS: dict[str, Any] = {
    "num_samples": -1,  # the searcher says when it has finished
    "reuse_actors": True,
    "trial_name_creator": lambda trial: name_of(trial.config),
    "trial_dirname_creator": lambda trial: str(trial.trial_id),  # a trial may be retried
}


def _resources(allocation: Allocation, config: dict[str, Any]) -> tune.PlacementGroupFactory:
    gpus = config["trial"]["gpus"]
    return tune.PlacementGroupFactory(
        [{"CPU": allocation.cpus, "GPU": allocation.gpus if gpus is None else gpus}]
    )


def interrupted(run: RunFolder) -> InterruptedRun:
    """What the user's interruption of a run raises."""
    return InterruptedRun(f"everything so far is kept; continue with\n  {run.resume_command}")
