"""A whole run in order: data, search, finalists, retraining, report, export."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crnn_search.cluster import connection, gpu_share, storage_check
from crnn_search.cluster.provenance import JOB_VARIABLE
from crnn_search.cluster.resources import divide
from crnn_search.data import mnist
from crnn_search.data.sequences import Digits
from crnn_search.models.export import export_winner
from crnn_search.models.predictor import FORMATS
from crnn_search.pipeline import finalists, retrain, search, stage
from crnn_search.pipeline.manifest import UNLIMITED, _budget_from, _sections, manifest
from crnn_search.results import report
from crnn_search.spaces.file import load_space
from crnn_search.spaces.space import SearchSpace, to_yaml
from crnn_search.storage import lease
from crnn_search.storage.files import read_json, write_atomically, write_json
from crnn_search.storage.journal import History, Journal, read_history
from crnn_search.storage.run_folder import RunPaths
from crnn_search.tuning import warm_start
from crnn_search.tuning.budget import Budget, Limit
from crnn_search.tuning.progress import Progress

TIMED = ("start", "search", "finalists", "retrain")


@dataclass(frozen=True)
class Options:
    """How a command works on a run, whatever the run is.

    address: a Ray cluster, None for a local one. data_dir: MNIST's files, None for a download.
    """

    address: str | None = None
    data_dir: Path | None = None
    verbose: bool = False


def run(
    space: SearchSpace,
    paths: RunPaths,
    progress: Progress,
    options: Options,
    *,
    budget: Budget = UNLIMITED,
    warm_runs: Sequence[str] = (),
) -> dict[str, Any]:
    """Do all that `crnn-search launch` does; returns the report.

    Raises:
        CrnnSearchError: see the exception tree in `errors`.
    """
    fitted = warm_start.fit(space, warm_runs)
    write_atomically(paths.space, to_yaml(space))
    if warm_runs:
        progress.note(fitted.describe())
        warm_start.write(fitted, paths.warm_start)
    known = manifest(space, paths, budget, warm_runs)
    with _working_on(paths, progress) as (history, journal):
        paths.push()
        return _work(space, paths, progress, options, known, history, journal)


def resume(paths: RunPaths, progress: Progress, options: Options) -> dict[str, Any]:
    """Go on with a run where it was left; returns the report. Raises as `run` does."""
    with _working_on(paths, progress) as (history, journal):
        space = load_space(paths.space)
        known = read_json(paths.manifest) if paths.manifest.exists() else manifest(space, paths)
        return _work(space, paths, progress, options, known, history, journal)


def extend(
    paths: RunPaths, trials: int, progress: Progress, options: Options, budget: Budget = UNLIMITED
) -> dict[str, Any]:
    """Add trials to a run's search, which then goes on as if they had been asked for at first.

    A report that exists is kept in the manifest under `earlier_reports`: it opened the test images.
    Raises as `run` does.
    """
    with _working_on(paths, progress) as (history, journal):
        space = load_space(paths.space)
        known = read_json(paths.manifest)
        if paths.report_json.exists():
            test = read_json(paths.report_json)["test"]
            earlier = {"trials": space.search.trials}
            earlier |= {name: test[name] for name in ("rmse", "rmse_interval")}
            known.setdefault("earlier_reports", []).append(earlier)
        known["budget"] = _budget_from(budget, history)
        write_json(paths.manifest, known)
        paths.push()
        for path in (paths.finalists, paths.best, paths.retrained, paths.report_json):
            path.unlink(missing_ok=True)
        paths.push()
        more = space.search.model_copy(update={"trials": space.search.trials + trials})
        space = dataclasses.replace(space, search=more)
        write_atomically(paths.space, to_yaml(space))  # from here on it is extended
        paths.push()
        return _work(space, paths, progress, options, known, history, journal)


@contextlib.contextmanager
def _working_on(paths: RunPaths, progress: Progress) -> Iterator[tuple[History, Journal]]:
    """Hold a run and know its past."""
    with lease.hold(paths, progress.note):
        history = read_history(paths.journal, paths.ledger)
        journal = Journal(paths, history.elapsed_s, progress.note)
        journal.begin(os.environ.get(JOB_VARIABLE))
        yield history, journal


def _work(
    space: SearchSpace,
    paths: RunPaths,
    progress: Progress,
    options: Options,
    known: dict[str, Any],
    history: History,
    journal: Journal,
) -> dict[str, Any]:
    """Do what is left of a run. known: its manifest, written once a cluster is there."""
    if not paths.is_retrained():
        progress.note("data: MNIST")
        digits = mnist.load(options.data_dir)
        with connection.connect(options.address, verbose=options.verbose):
            _train(space, paths, progress, options, known, history, journal, digits)
    journal.write("stage", stage="report")
    return finish(paths, progress, journal, data_dir=options.data_dir)


def _train(
    space: SearchSpace,
    paths: RunPaths,
    progress: Progress,
    options: Options,
    known: dict[str, Any],
    history: History,
    journal: Journal,
    digits: Digits,
) -> None:
    """Search, repeat the finalists, retrain the winner: each as far as it is not done."""
    resources = space.resources
    gpus, reading = resources.gpus_per_trial, None
    if gpus == "auto" and (reading := gpu_share.read_gpu(space, digits)):
        gpus = reading.share
        progress.note(reading.describe())
    slots = divide(
        resources.cpus_per_trial,
        gpus,
        space.search.max_concurrent_trials,
        may_grow=options.address is not None,
    )
    storage_check.check_storage(paths)
    known["hardware"] = known["hardware"] or {
        "nodes": connection.nodes(),
        "gpu": dataclasses.asdict(reading) | {"share": reading.share} if reading else None,
    }
    known["space"] = _sections(space)
    write_json(paths.manifest, known)
    paths.push()
    stated = known["budget"]
    limit = Limit(
        Budget(**stated["limits"]),
        space,
        slots.concurrent,
        lambda: journal.elapsed_s,
        Budget(**stated["before"]),
    )
    shared = stage.Stage(space, paths, history, journal, digits, slots, progress)
    if paths.best.exists():
        winner = read_json(paths.best)
    else:
        found = search.run(space, paths, history, journal, digits, slots, limit, progress)
        winner = finalists.choose(found, shared)
    retrain.retrain(winner, shared)


def finish(
    paths: RunPaths,
    progress: Progress,
    journal: Journal,
    *,
    data_dir: Path | None = None,
) -> dict[str, Any]:
    """Score the retrained models on the test images, for the only time, and export the winner."""
    progress.close()
    retrained = read_json(paths.retrained)
    seconds = read_history(paths.journal, paths.ledger).seconds
    seconds = {stage: seconds[stage] for stage in TIMED if stage in seconds}
    write_json(paths.retrained, retrained | {"seconds": seconds})
    progress.note("report: scoring the retrained networks on the test images")
    digits = mnist.load(data_dir, test_images=True)
    result = report.write_report(paths, digits)
    progress.note("export: " + ", ".join(FORMATS))
    export_winner(paths, FORMATS, digits)
    paths.push()
    return result
