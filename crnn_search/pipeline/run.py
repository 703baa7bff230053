"""A whole run in order: data, search, finalists, retraining, report, export."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crnn_search.cluster import connection, gpu_share, nodes, storage_check
from crnn_search.cluster.arithmetic import resolve_arithmetic
from crnn_search.cluster.gpu_share import GpuProbe
from crnn_search.cluster.provenance import JOB_VARIABLE
from crnn_search.cluster.resources import Allocation, allocate
from crnn_search.data import mnist
from crnn_search.data.sequences import Digits
from crnn_search.errors import InputError
from crnn_search.models.export import export_winner
from crnn_search.models.folder import FORMATS
from crnn_search.pipeline import finalists, retrain, search
from crnn_search.pipeline.budget_check import check_budget
from crnn_search.pipeline.hooks import NO_HOOKS, HookRunner, Hooks
from crnn_search.pipeline.manifest import UNLIMITED, Manifest, RunBudget
from crnn_search.results import report
from crnn_search.spaces.file import load_space
from crnn_search.spaces.space import MAX_TRIALS, SearchSpace, to_yaml
from crnn_search.storage import lease
from crnn_search.storage.files import read_json, write_json, write_text
from crnn_search.storage.journal import SEARCH, Journal, read_history
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.runs import is_retrained
from crnn_search.tuning import warm_start
from crnn_search.tuning.budget import Budget, Limit
from crnn_search.tuning.context import Context, OnTrialEnd
from crnn_search.tuning.progress import Progress
from crnn_search.tuning.tuner import interrupted

TIMED = ("start", SEARCH, "finalists", "retrain")
"""The stages whose durations the report shows."""


@dataclass(frozen=True)
class Options:
    """Where a session of a run works, and who hears of it.

    address: a Ray cluster, None for a local one. data_dir: MNIST's files, None for a download.
    verbose: show the log of Ray's workers, too. command: for the manifest of a new run: launches
    it again, ready for a shell.
    """

    address: str | None = None
    data_dir: Path | None = None
    verbose: bool = False
    command: str = ""
    hooks: Hooks = NO_HOOKS


def launch(
    space: SearchSpace,
    run: RunFolder,
    progress: Progress,
    options: Options,
    *,
    budget: Budget = UNLIMITED,
    warm_runs: Sequence[str] = (),
) -> dict[str, Any]:
    """Run a search in a new folder, from its first trial to the exported winner.

    warm_runs: locations of earlier runs whose trials the sampler starts with.
    Returns the report.

    Raises:
        CrnnSearchError: see the exception tree in `errors`.
    """
    earlier = warm_start.fit(space, warm_runs)
    with lease.acquire(run, progress.note):
        with run.changes():
            write_text(run.space, to_yaml(space))
            if warm_runs:
                progress.note(earlier.describe())
                warm_start.write(earlier, run.warm_start)
            manifest = Manifest.create(run, space, budget, warm_runs, options.command)
            manifest.write(run)
        return _continue(run, space, manifest, progress, options)


def resume(run: RunFolder, progress: Progress, options: Options) -> dict[str, Any]:
    """Continue a run where it stopped; returns the report. Raises as `launch` does."""
    with lease.acquire(run, progress.note):
        manifest = Manifest.read(run)
        return _continue(run, load_space(run.space), manifest, progress, options)


def extend(
    run: RunFolder, trials: int, progress: Progress, options: Options, budget: Budget = UNLIMITED
) -> dict[str, Any]:
    """Add trials to a run's search, and continue it as if it had been launched with them.

    A report that exists is recorded in the manifest's `earlier_reports`: it opened the test images.
    Returns the new report. Raises as `launch` does.
    """
    with lease.acquire(run, progress.note):
        manifest, space = Manifest.read(run), load_space(run.space)
        if space.search.trials + trials > MAX_TRIALS:
            raise InputError(f"a search has at most {MAX_TRIALS} trials, got {trials} more")
        with run.changes():
            manifest = _before_extension(run, manifest, space, budget)
            manifest.write(run)
        search_spec = space.search.model_copy(update={"trials": space.search.trials + trials})
        space = dataclasses.replace(space, search=search_spec)
        with run.changes():
            for path in (run.finalists, run.best, run.retrained, run.report_json):
                path.unlink(missing_ok=True)
            write_text(run.space, to_yaml(space))  # from here on it is extended
        return _continue(run, space, manifest, progress, options)


def _before_extension(
    run: RunFolder, manifest: Manifest, space: SearchSpace, limits: Budget
) -> Manifest:
    """The manifest with the run's report, if any, and the budget of its extension."""
    reports = list(manifest.earlier_reports)
    if run.report_json.exists():
        test = read_json(run.report_json)["test"]
        found = {name: test[name] for name in ("rmse", "rmse_interval")}
        found["trials"] = space.search.trials
        if found not in reports:  # it is there if an extension stopped right after this
            reports.append(found)
    history = read_history(run.journal, run.ledger)
    records = history.records(SEARCH).values()
    before = Budget(
        history.elapsed_s,
        sum(record.core_seconds for record in records),
        sum(record.gpu_seconds for record in records),
    )
    return dataclasses.replace(manifest, budget=RunBudget(limits, before), earlier_reports=reports)


def _continue(
    run: RunFolder, space: SearchSpace, manifest: Manifest, progress: Progress, options: Options
) -> dict[str, Any]:
    """Do what is left of a run whose lease this process holds; returns the report."""
    hooks = HookRunner(run, options.hooks, progress.note)
    with hooks.running():
        try:
            return _finish(run, space, manifest, progress, options, hooks.trial_ended)
        except KeyboardInterrupt:
            raise interrupted(run) from None


def _finish(
    run: RunFolder,
    space: SearchSpace,
    manifest: Manifest,
    progress: Progress,
    options: Options,
    on_trial_end: OnTrialEnd,
) -> dict[str, Any]:
    """Train what is left to train, and write the report."""
    history = read_history(run.journal, run.ledger)
    journal = Journal(run, history.elapsed_s, progress.note)
    journal.start_session(os.environ.get(JOB_VARIABLE))
    if not is_retrained(run):
        progress.note("data: MNIST")
        digits = mnist.load(options.data_dir)
        with connection.connect(options.address, progress.note, verbose=options.verbose):
            grows = options.address is not None
            allocation, probe = _allocate(space, digits, progress, may_grow=grows)
            storage_check.check_storage(run)
            arithmetic = manifest.arithmetic
            if arithmetic is None:
                arithmetic = resolve_arithmetic(space.resources, allocation, progress.note)
            progress.note(f"arithmetic: {arithmetic}")
            with run.changes():
                manifest = manifest.on_cluster(space, _hardware(probe), arithmetic)
                manifest.write(run)
            context = Context(
                run,
                space,
                history,
                journal,
                digits,
                allocation,
                arithmetic,
                progress,
                on_trial_end,
            )
            _train(context, manifest.budget)
    journal.write("stage", stage="report")
    return _report(run, progress, options.data_dir)


def _allocate(
    space: SearchSpace, digits: Digits, progress: Progress, *, may_grow: bool
) -> tuple[Allocation, GpuProbe | None]:
    """What each trial gets of the cluster, and what was measured of its GPU, if it was."""
    resources = space.resources
    gpus, probe = resources.gpus_per_trial, None
    if gpus == "auto" and (probe := gpu_share.probe_gpu(space, digits, progress.note)):
        gpus = probe.share
        progress.note(probe.describe())
    concurrent = space.search.max_concurrent_trials
    return allocate(resources.cpus_per_trial, gpus, concurrent, may_grow=may_grow), probe


def _hardware(probe: GpuProbe | None) -> dict[str, Any]:
    gpu = dataclasses.asdict(probe) | {"share": probe.share} if probe else None
    return {"nodes": nodes.hardware(), "gpu": gpu}


def _train(context: Context, budget: RunBudget) -> None:
    """Search, repeat the finalists, retrain the winner: whatever of it is not done yet."""
    run = context.run
    if run.best.exists():
        winner = read_json(run.best)
    else:
        limit = Limit(
            budget.limits,
            context.space,
            context.allocation.concurrent,
            lambda: context.journal.elapsed_s,
            budget.before,
        )
        check_budget(limit, context)
        winner = finalists.choose(search.run_search(context, limit), context)
    retrain.retrain(winner, context)


def _report(run: RunFolder, progress: Progress, data_dir: Path | None) -> dict[str, Any]:
    """Score the retrained models on the test images, write the report, export the winner."""
    progress.close()
    with run.changes():
        retrained = read_json(run.retrained)
        seconds = read_history(run.journal, run.ledger).seconds
        seconds = {stage: seconds[stage] for stage in TIMED if stage in seconds}
        write_json(run.retrained, retrained | {"seconds": seconds})
        progress.note("report: scoring the retrained networks on the test images")
        digits = mnist.load(data_dir, test_images=True)
        result = report.write_report(run, digits)
        progress.note("export: " + ", ".join(FORMATS))
        export_winner(run, FORMATS, digits)
    return result
