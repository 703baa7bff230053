"""Run a stage of fixed trials: the finalists' repetitions, or the retraining."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

from crnn_search.errors import ModelFileError
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import Trial, TrialRecord
from crnn_search.training import checkpoint
from crnn_search.tuning import budget, tuner
from crnn_search.tuning.callback import RunCallback
from crnn_search.tuning.checkpoints import is_of
from crnn_search.tuning.context import Context
from crnn_search.tuning.progress import Stage


def run_stage(
    context: Context,
    stage: str,
    title: str,
    trials: Sequence[Trial],
    *,
    keeps_models: bool = False,
) -> list[TrialRecord]:
    """Run those trials that an earlier session has not ended; returns the records of all, in order.

    stage: its name in the journal. title: its name for users.
    keeps_models: a trial whose last checkpoint is missing or damaged runs again.

    Raises:
        InterruptedRun: the user stopped it.
        StorageError: the run's folder or object store cannot be written.
    """
    context.journal.write("stage", stage=stage)
    records = _reusable(context, stage, trials, keeps_models)
    callback = RunCallback(stage, context, records)
    size = budget.Stage(len(trials), trials[0].epochs, trials[0].epoch_sequences)
    show_stage(context, stage, title, size, "resumed" if records else "")
    for record in records:
        trained = record.failure is not None or record.epochs >= record.trial.epochs
        if trained and not record.ended:
            callback.finish(record)
    for trial in trials:
        if trial.name not in callback.records:
            callback.on_trial_created(trial)
    callback.raise_error()
    ordered = [callback.records[trial.name] for trial in trials]
    waiting = [record.trial for record in ordered if not record.ended]
    if waiting:
        tuner.run_trials(context, waiting, callback)
    return [callback.records[trial.name] for trial in trials]


def show_stage(
    context: Context, name: str, title: str, size: budget.Stage, origin: str = ""
) -> None:
    """Tell the display that a stage begins. Arguments as of `progress.Stage`."""
    left = context.time_left
    time_left = functools.partial(left, name) if left else lambda _: None
    searched, records = context.space.searched, context.records
    context.progress.stage(Stage(name, title, *size, searched, records, origin, time_left))


def _reusable(
    context: Context, stage: str, trials: Sequence[Trial], keeps_models: bool
) -> list[TrialRecord]:
    """The records of an earlier session that are of these very trials."""
    earlier = context.history.records(stage)
    pairs = [(trial, earlier[trial.name]) for trial in trials if trial.name in earlier]
    return [
        record
        for trial, record in pairs
        if record.trial.same_training(trial)
        and not (record.ended and keeps_models and not _has_model(context.run, record))
    ]


def _has_model(run: RunFolder, record: TrialRecord) -> bool:
    """Whether the last checkpoint of a trial is there and whole."""
    if record.checkpoint is None:
        return False
    try:
        found = checkpoint.load_state(run.file(record.checkpoint), torch.device("cpu"))
    except ModelFileError:
        return False
    return is_of(record.trial, found.trial) and found.state.epoch == record.trial.epochs
