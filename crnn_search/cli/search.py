"""The commands that check a space and run a search: check, launch, resume, extend.

Ray, PyTorch and Optuna are imported inside the functions that need them.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from crnn_search.cli import options
from crnn_search.errors import ConfigError, InputError, InterruptedRun, StorageError
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.runs import DEFAULT_STORAGE, check_owner, create_run, open_run, remove_run

if TYPE_CHECKING:
    from crnn_search.spaces.space import SearchSpace
    from crnn_search.tuning.progress import Progress

NOTHING = "(nothing is searched)"


def check(
    space: options.SpaceFile,
    samples: Annotated[int, typer.Option(min=1, help="Number of configurations to sample.")] = 5,
    overrides: options.Overrides = None,
) -> None:
    """Validate a search space and show sampled configurations."""
    from crnn_search.spaces.file import load_space

    searched = load_space(space, list(overrides or []))
    print(f"{space} is valid.")
    Console().print(_sampled(searched, samples))
    share = searched.infeasible_share()
    if share > 0:
        print(f"{share:.0%} of the sampled networks are infeasible and will be skipped.")


def launch(
    space: options.SpaceFile,
    name: options.Name = None,
    storage: Annotated[
        str, typer.Option(help="The folder of runs, or a URI: s3://BUCKET/PREFIX.")
    ] = DEFAULT_STORAGE,
    address: options.Address = None,
    trials: options.Trials = None,
    time_budget: options.TimeBudget = None,
    compute_budget: options.ComputeBudget = None,
    warm_start: Annotated[
        list[str] | None,
        typer.Option(metavar="RUN", help="An earlier run to learn from. Repeatable."),
    ] = None,
    overrides: options.Overrides = None,
    data_dir: options.DataDir = None,
    verbose: options.Verbose = False,
) -> None:
    """Search a space, retrain the winner, report and export it."""
    from crnn_search.spaces.file import load_space
    from crnn_search.storage.journal import read_history
    from crnn_search.tuning.budget import parse_budget

    changes = list(overrides or [])
    if trials is not None:
        changes.append(f"search.trials={trials}")
    searched = load_space(space, changes)
    budget = parse_budget(time_budget, compute_budget)
    warm_runs = [open_run(run).location for run in warm_start or []]
    run = create_run(storage, name or options.default_name(space))

    def work(progress: Progress) -> dict[str, Any]:
        from crnn_search.pipeline import run as pipeline

        settings = pipeline.Options(address, data_dir, verbose)
        return pipeline.launch(
            searched, run, progress, settings, budget=budget, warm_runs=warm_runs
        )

    try:
        _execute(run, work, verbose=verbose)
    except InputError:
        if not read_history(run.journal, run.ledger).stages:  # no trial: keep not even the name
            remove_run(run)
        raise


def resume(
    run: options.Run,
    address: options.Address = None,
    force: Annotated[bool, typer.Option("--force", help="Trust a run of another user.")] = False,
    data_dir: options.DataDir = None,
    verbose: options.Verbose = False,
) -> None:
    """Continue a run that was stopped or crashed."""
    folder = open_run(run)
    if not force:
        check_owner(folder)
    from crnn_search.pipeline.manifest import Manifest
    from crnn_search.results.status import describe, plan, read_status

    Manifest.read(folder)  # refuses a run of another format
    status = read_status(folder)
    print(describe(status))
    print(plan(status))
    if status["stage"] == "finished":
        return

    def work(progress: Progress) -> dict[str, Any]:
        from crnn_search.pipeline import run as pipeline

        return pipeline.resume(folder, progress, pipeline.Options(address, data_dir, verbose))

    _execute(folder, work, verbose=verbose)


def extend(
    run: options.Run,
    trials: Annotated[int, typer.Option(min=1, help="Number of trials to add.")],
    time_budget: options.TimeBudget = None,
    compute_budget: options.ComputeBudget = None,
    address: options.Address = None,
    data_dir: options.DataDir = None,
    verbose: options.Verbose = False,
) -> None:
    """Add trials to a run's search, then report and export again."""
    from crnn_search.tuning.budget import parse_budget

    budget = parse_budget(time_budget, compute_budget)
    folder = open_run(run)

    def work(progress: Progress) -> dict[str, Any]:
        from crnn_search.pipeline import run as pipeline

        settings = pipeline.Options(address, data_dir, verbose)
        return pipeline.extend(folder, trials, progress, settings, budget)

    _execute(folder, work, verbose=verbose)


def _execute(run: RunFolder, work: Callable[[Progress], dict[str, Any]], *, verbose: bool) -> None:
    """Run the pipeline, show its progress and print its report; a second Ctrl-C ends it at once."""
    print(f"run: {run.location}")
    with log_to(run, verbose=verbose):
        from crnn_search.cli.display import show_on
        from crnn_search.results.markdown import summary

        progress = show_on(Console())
        try:
            report = work(progress)
        except KeyboardInterrupt:
            progress.close()
            command = options.resume_command(run)
            print(f"interrupted: continue with\n  {command}", file=sys.stderr, flush=True)
            os._exit(InterruptedRun.exit_code)  # without waiting for anything of Ray's
        finally:
            progress.close()
    print(summary(report))
    print(f"\nreport: {run.location_of(run.report_markdown)}")
    print(f"model:  {run.location_of(run.model)}")


@contextlib.contextmanager
def log_to(run: RunFolder, *, verbose: bool) -> Iterator[None]:
    """Send the log of all libraries to the run's log file; to the terminal, too, if verbose."""
    try:
        handlers: list[logging.Handler] = [logging.FileHandler(run.log, encoding="utf-8")]
    except OSError as error:
        raise StorageError(run.log, error) from error
    if verbose:
        handlers.append(logging.StreamHandler())
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root.addHandler(handler)
    logging.captureWarnings(True)
    for library in ("optuna", "ray"):  # both have handlers of their own for the terminal
        importlib.import_module(library)
        logger = logging.getLogger(library)
        logger.handlers.clear()
        logger.propagate = True
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


def _sampled(space: SearchSpace, samples: int) -> Table:
    """Sampled configurations, without what is fixed, and the size of each network."""
    from crnn_search.hyperparameters import TrialConfig
    from crnn_search.spaces.domains import Fixed
    from crnn_search.spaces.space import sample
    from crnn_search.training.footprint import parameter_count, peak_memory_mb

    table = Table(box=None, pad_edge=False)
    for column in ("configuration", "parameters", "peak memory"):
        table.add_column(column, justify="left" if column == "configuration" else "right")
    for values in sample(space, space.search.seed, samples):
        shown = "  ".join(
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in values.items()
            if not isinstance(space.space[name], Fixed)
        )
        try:
            config = TrialConfig.from_dict(values)
        except ConfigError as error:
            table.add_row(shown or NOTHING, "infeasible", error.problems[0])
            continue
        longest = min(config.training.max_sequence_length, space.task.max_digits)
        memory_mb = peak_memory_mb(config.model, config.training.batch_size, longest)
        parameters = f"{parameter_count(config.model):,}"
        table.add_row(shown or NOTHING, parameters, f"{memory_mb:,.0f} MB")
    return table
