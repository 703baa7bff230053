"""A whole run in order: data, search, finalists, retraining, report, export."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crnn_search.cluster import connection, data_size, gpu_share, nodes, storage_check
from crnn_search.cluster.arithmetic import resolve_arithmetic
from crnn_search.cluster.gpu_share import GpuProbe
from crnn_search.cluster.provenance import JOB_VARIABLE
from crnn_search.data.arrays import SequenceData
from crnn_search.data.task import Source, Task
from crnn_search.errors import InputError, InterruptedRun
from crnn_search.models.export import export_winner
from crnn_search.models.folder import FORMATS
from crnn_search.pipeline import extension, finalists, recovery, retrain, search
from crnn_search.pipeline.budget_check import check_budget
from crnn_search.pipeline.hooks import NO_HOOKS, HookRunner, Hooks
from crnn_search.pipeline.manifest import UNLIMITED, Manifest
from crnn_search.pipeline.source import digests, fit_to, keep, open_again, open_source
from crnn_search.results import exported, report
from crnn_search.results.schema import Report
from crnn_search.spaces.file import load_space
from crnn_search.spaces.sections import MAX_TRIALS
from crnn_search.spaces.space import SearchSpace, to_yaml
from crnn_search.storage import lease, stages
from crnn_search.storage.files import read_json, write_text
from crnn_search.storage.journal import History, Journal
from crnn_search.storage.run_folder import RunFolder
from crnn_search.tuning import warm_start
from crnn_search.tuning.budget import Budget, Limit
from crnn_search.tuning.context import Context, OnTrialEnd
from crnn_search.tuning.progress import Progress
from crnn_search.tuning.study_mirror import StudyMirror
from crnn_search.tuning.study_storage import StudyStorage
from crnn_search.tuning.time_left import TimeLeft
from crnn_search.tuning.tuner import interrupted


@dataclass(frozen=True)
class Options:
    """Where a session of a run works, and who hears of it.

    address: a Ray cluster, None for a local one. data_dir, data: see `open_source`. verbose: show
    the log of Ray's workers, too. command: for the manifest of a new run: launches it again, ready
    for a shell. study_storage: a database server for the copy of the study; None for the run's
    `study.db`.
    """

    address: str | None = None
    data_dir: Path | None = None
    data: SequenceData | None = None
    verbose: bool = False
    command: str = ""
    hooks: Hooks = NO_HOOKS
    study_storage: StudyStorage | None = None


@dataclass(frozen=True)
class _Work:
    """A run whose lease this process holds, and what it has done so far."""

    run: RunFolder
    space: SearchSpace
    source: Source
    manifest: Manifest
    history: History
    journal: Journal


def launch(
    space: SearchSpace,
    run: RunFolder,
    progress: Progress,
    options: Options,
    *,
    budget: Budget = UNLIMITED,
    warm_runs: Sequence[str] = (),
) -> Report:
    """Run a search in a new folder, from its first trial to the exported winner.

    warm_runs: locations of earlier runs whose trials the sampler starts with.
    Returns the report.

    Raises:
        CrnnSearchError: see the exception tree in `errors`.
    """
    progress.doing("opening the data")
    try:
        source = open_source(space.task, options.data_dir, options.data, progress.reading)
    except KeyboardInterrupt:
        raise InterruptedRun("the data were not read yet, and nothing was started") from None
    for warning in source.warnings:
        progress.note(f"data: {warning}")
    space = fit_to(source, space)
    earlier = warm_start.fit(space, warm_runs)
    with lease.acquire(run, progress.note):
        with run.changes():
            write_text(run.space, to_yaml(space))
            if warm_runs:
                progress.note(earlier.describe())
                warm_start.write(earlier, run.warm_start)
            manifest = Manifest.create(
                run, space, digests(source), budget, warm_runs, options.command
            )
            manifest.write(run)
            if options.data is not None or JOB_VARIABLE in os.environ:
                keep(source, run)
        journal = Journal(run, on_retry=progress.note)
        return _continue(_Work(run, space, source, manifest, History(), journal), progress, options)


def resume(run: RunFolder, progress: Progress, options: Options) -> Report:
    """Continue a run where it stopped; returns the report. Raises as `launch` does."""
    with lease.acquire(run, progress.note):
        return _continue(_open(run, progress, options), progress, options)


def extend(
    run: RunFolder, trials: int, progress: Progress, options: Options, budget: Budget = UNLIMITED
) -> Report:
    """Add trials to a run's search, and continue it as if it had been launched with them.

    Returns the new report. Raises as `launch` does.
    """
    with lease.acquire(run, progress.note):
        work = _open(run, progress, options)
        if work.space.search.trials + trials > MAX_TRIALS:
            raise InputError(f"a search has at most {MAX_TRIALS} trials, got {trials} more")
        stages.first_open(run)  # the files of a finished run must be as they were
        event = work.journal.write(
            "extension", **extension.request(run, work.space, work.history, trials, budget)
        )
        manifest, space = extension.apply(run, work.manifest, work.space, event)
        history = dataclasses.replace(work.history, extension=event)
        work = dataclasses.replace(work, manifest=manifest, space=space, history=history)
        return _continue(work, progress, options)


def _open(run: RunFolder, progress: Progress, options: Options) -> _Work:
    """An existing run as its last session left it, whatever ended that."""
    progress.doing("reading the run")
    history = recovery.recover(run, progress.note)
    manifest, space = extension.apply(
        run, Manifest.read(run), load_space(run.space), history.extension
    )
    source = open_again(run, options.data_dir, options.data, progress.reading)
    space = fit_to(source, space)
    recovery.check_space(run, space, history)
    return _Work(
        run, space, source, manifest, history, Journal(run, history.elapsed_s, progress.note)
    )


def _continue(work: _Work, progress: Progress, options: Options) -> Report:
    """Do what is left of a run; returns the report."""
    hooks = HookRunner(work.run, options.hooks, progress.note)
    with hooks.running():
        try:
            return _finish(work, progress, options, hooks.trial_ended)
        except KeyboardInterrupt:
            raise interrupted(work.run) from None


def _finish(work: _Work, progress: Progress, options: Options, on_trial_end: OnTrialEnd) -> Report:
    """Train what is left to train, and write the report."""
    run, journal = work.run, work.journal
    first_open = stages.first_open(run)
    journal.start_session(os.environ.get(JOB_VARIABLE))
    stages.reopen(run, first_open or stages.REPORT)
    if first_open in {stages.FINALISTS, stages.RETRAIN}:
        info, address = work.source.info, options.address
        progress.note(f"data: {'MNIST' if info.sums else info.name}")
        task = work.source.load()
        progress.doing("starting Ray" if address is None else f"connecting to Ray at {address}")
        with connection.connect(address, progress.note, verbose=options.verbose):
            progress.doing("preparing the trials")
            context, limit = _prepare(work, task, progress, on_trial_end, grows=address is not None)
            with _mirrored(context, work.manifest.created, options.study_storage) as mirrored:
                _train(mirrored, limit, first_open)
    journal.write("stage", stage="report")
    return _report(run, progress, work.source)


def _prepare(
    work: _Work, task: Task, progress: Progress, on_trial_end: OnTrialEnd, *, grows: bool
) -> tuple[Context, Limit]:
    """What every stage works with on the cluster, and when the search ends early."""
    run, space, manifest = work.run, work.space, work.manifest
    data_size.check_memory(task.images.nbytes)
    allocation, probe = gpu_share.allocate_trials(space, task, progress.note, may_grow=grows)
    storage_check.check_storage(run)
    arithmetic = manifest.arithmetic
    if arithmetic is None:
        arithmetic = resolve_arithmetic(space.resources, allocation, progress.note)
    progress.note(f"arithmetic: {arithmetic}")
    with run.changes():
        manifest = manifest.on_cluster(space, _hardware(probe), arithmetic)
        manifest.write(run)
    budget = manifest.budget
    limit = Limit(
        budget.limits,
        space,
        allocation.concurrent,
        lambda: work.journal.elapsed_s,
        budget.before,
    )
    records = dict(work.history.stages)
    context = Context(
        run,
        space,
        work.history,
        work.journal,
        task,
        allocation,
        arithmetic,
        progress,
        records,
        TimeLeft(limit, records),
        on_trial_end,
    )
    return context, limit


@contextlib.contextmanager
def _mirrored(context: Context, created: str, server: StudyStorage | None) -> Iterator[Context]:
    """A block in which a database follows the search of the context that it gets."""
    run, note = context.run, context.progress.note
    mirror = StudyMirror(run, context.space, context.history, created, note, server)
    with mirror.running():
        yield dataclasses.replace(context, on_search_change=mirror.update)


def _hardware(probe: GpuProbe | None) -> dict[str, Any]:
    gpu = dataclasses.asdict(probe) | {"share": probe.share} if probe else None
    return {"nodes": nodes.hardware(), "gpu": gpu}


def _train(context: Context, limit: Limit, first_open: str | None) -> None:
    """Search, repeat the finalists, retrain the winner: whatever of it is not done yet."""
    if first_open == stages.RETRAIN:
        winner = read_json(context.run.best)
    else:
        check_budget(limit, context)
        winner = finalists.choose(search.run_search(context, limit), context)
    retrain.retrain(winner, context)


def _report(run: RunFolder, progress: Progress, source: Source) -> Report:
    """Score the retrained models on the test images, write the report, export the winner."""
    with run.changes():
        progress.doing("report: scoring the retrained networks on the test images")
        task = source.load(test=True)
        result = report.write_report(run, task)
        progress.doing("export: " + ", ".join(FORMATS))
        export_winner(run, FORMATS, task, exported.metrics(run))
        stages.record(run, stages.FINISHED, (run.space, run.manifest, run.journal))
    return result
