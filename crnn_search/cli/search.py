"""The commands that check a space and run a search: check, launch, resume, extend.

They are built on `crnn_search.api`; Ray, PyTorch and Optuna are imported by the functions that need
them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crnn_search import api, signals
from crnn_search.cli import options, terminal
from crnn_search.cli.data import progress_bar, read_for
from crnn_search.errors import ConfigError, InputError, InterruptedRun, StorageError
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.runs import DEFAULT_STORAGE, default_name
from crnn_search.text import printable

if TYPE_CHECKING:
    from crnn_search.spaces.space import SearchSpace
    from crnn_search.tuning.progress import Progress

NOTHING = "(nothing is searched)"


def check(
    space: options.SpaceFile,
    samples: Annotated[
        int, typer.Option(min=1, max=10_000, help="Number of configurations to sample.")
    ] = 5,
    forecast: Annotated[
        bool, typer.Option("--forecast", help="Measure a few trials here, and forecast the run.")
    ] = False,
    overrides: options.Overrides = None,
    data_dir: options.DataDir = None,
) -> None:
    """Validate a search space, show samples, and forecast a run.

    A search also measures how long a network takes, for search.max_ms_per_sequence; without
    --forecast, this does not.
    """
    searched = read_for(api.load_space(space, overrides or []), data_dir)
    terminal.show(f"{space} is valid.")
    columns = "configuration", "parameters", "peak memory"
    terminal.show_table(columns, _sampled(searched, samples), right=2)
    share = searched.infeasible_share()
    if share > 0:
        terminal.show(f"{share:.0%} of the samples are infeasible and will be skipped.")
    if forecast:
        _show_forecast(searched, data_dir)


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
    on_trial_end: options.OnTrialEnd = None,
    on_end: options.OnEnd = None,
    study_storage: options.StudyStorage = None,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Search a space, retrain the winner, report and export it."""
    session = _session(address, data_dir, on_trial_end, on_end, study_storage)
    session |= _shown(verbose, quiet)
    session["command"] = shlex.join(["crnn-search", *sys.argv[1:]])
    changes = [*(overrides or []), *([] if trials is None else [f"search.trials={trials}"])]
    run = api.launch(
        api.load_space(space, changes),
        name=name or default_name(space.stem),
        storage=storage,
        time_budget=time_budget,
        compute_budget=compute_budget,
        warm_start=warm_start or [],
        **session,
    )
    _print_report(run)


def resume(
    run: options.Run,
    address: options.Address = None,
    force: options.Force = False,
    data_dir: options.DataDir = None,
    on_trial_end: options.OnTrialEnd = None,
    on_end: options.OnEnd = None,
    study_storage: options.StudyStorage = None,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Continue a run that was stopped or crashed."""
    session = _session(address, data_dir, on_trial_end, on_end, study_storage)
    session |= _shown(verbose, quiet)
    found = api.open_run(run)
    found.check(force=force)
    from crnn_search.results.status import describe, plan

    status = found.status()
    if not quiet:
        terminal.show(describe(status))
        terminal.show(plan(status))
    if status["stage"] != "finished":
        _print_report(api.resume(found, force=force, **session))


def extend(
    run: options.Run,
    trials: Annotated[int, typer.Option(min=1, help="Number of trials to add.")],
    time_budget: options.TimeBudget = None,
    compute_budget: options.ComputeBudget = None,
    address: options.Address = None,
    force: options.Force = False,
    data_dir: options.DataDir = None,
    on_trial_end: options.OnTrialEnd = None,
    on_end: options.OnEnd = None,
    study_storage: options.StudyStorage = None,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    """Add trials to a run's search, then report and export again."""
    session = _session(address, data_dir, on_trial_end, on_end, study_storage)
    session |= _shown(verbose, quiet)
    budgets = {"time_budget": time_budget, "compute_budget": compute_budget}
    _print_report(api.extend(run, trials, force=force, **budgets, **session))


def _session(
    address: str | None,
    data_dir: Path | None,
    on_trial_end: str | None,
    on_end: str | None,
    study_storage: str | None,
) -> api.Session:
    """The options that launch, resume and extend share, checked."""
    from crnn_search.pipeline.hooks import Command
    from crnn_search.tuning.study_storage import given

    storage = given(study_storage, may_have_password=False)
    return {
        "address": address,
        "data_dir": data_dir,
        "on_trial_end": None if on_trial_end is None else Command(on_trial_end, "--on-trial-end"),
        "on_end": None if on_end is None else Command(on_end, "--on-end"),
        "study_storage": storage.url if storage else None,
    }


def _shown(verbose: bool, quiet: bool) -> api.Session:
    """What a session prints.

    Raises:
        InputError: much and nothing.
    """
    if verbose and quiet:
        raise InputError("--verbose and --quiet exclude each other, got both")
    return {
        "verbose": verbose,
        "display": functools.partial(_display, verbose=verbose, quiet=quiet),
    }


@contextlib.contextmanager
def _display(run: RunFolder, *, verbose: bool, quiet: bool) -> Iterator[Progress]:
    """Show a run's progress while it works, and log it; a second Ctrl-C ends it at once."""
    from crnn_search.cli.display import show_on

    console = terminal.no_console() if quiet else terminal.lasting_console()
    progress = show_on(console, run.name)
    last_words = printable(f"interrupted: continue with\n  {run.resume_command}")
    try:
        progress.note(f"run: {run.location}")
        progress.doing("loading Ray, Optuna and PyTorch")
        with log_to(run, verbose=verbose):
            signals.say_at_the_end(last_words)
            signals.call_when_asked(progress.stopping)
            yield progress
    except KeyboardInterrupt:
        progress.close()
        terminal.complain(last_words)
        os._exit(InterruptedRun.exit_code)  # without waiting for anything of Ray's
    finally:
        progress.close()


def _print_report(run: api.Run) -> None:
    """Print the summary of a finished run, and where its files are."""
    from crnn_search.results.summary import summary

    folder = run.folder
    terminal.show(summary(run.report()))
    terminal.show(f"\nreport: {folder.location_of(folder.report_html)}")
    terminal.show(f"model:  {folder.location_of(folder.model)}")


@contextlib.contextmanager
def log_to(run: RunFolder, *, verbose: bool) -> Iterator[None]:
    """Send the log of all libraries to the run's log file; to the terminal, too, if verbose."""
    try:
        handlers: list[logging.Handler] = [
            _LogFile(run.log, encoding="utf-8", errors="backslashreplace")
        ]
    except OSError as error:
        raise StorageError(run.log, error) from error
    if verbose:
        handlers.append(_Log())
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root.addHandler(handler)
    logging.captureWarnings(True)
    _quiet("optuna", "ray")
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


class _Log(logging.StreamHandler[Any]):
    """A log on standard error that is not worth a traceback if it cannot be written."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's name)
        pass


class _LogFile(logging.FileHandler, _Log):
    """The same in a file."""

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


def _show_forecast(space: SearchSpace, data_dir: Path | None) -> None:
    """Forecast a run, with a bar while trials are measured, and print it."""
    from crnn_search.cli.forecast import show_forecast

    _quiet("ray")
    notes: list[str] = []
    with progress_bar() as progress:
        found = api.forecast(space, data_dir=data_dir, on_note=notes.append, on_progress=progress)
    for note in notes:
        terminal.show(note)
    show_forecast(found)


def _quiet(*libraries: str) -> None:
    """Leave what these libraries log to the root logger; they have handlers of their own."""
    for library in libraries:
        importlib.import_module(library)
        logger = logging.getLogger(library)
        logger.handlers.clear()
        logger.propagate = True


def _sampled(space: SearchSpace, samples: int) -> Iterator[tuple[str, str, str]]:
    """Sampled configurations, without what is fixed, and the size of each network."""
    from crnn_search.hyperparameters import TrialConfig
    from crnn_search.spaces.domains import Fixed
    from crnn_search.spaces.space import sample
    from crnn_search.training.footprint import peak_memory_mb

    for values in sample(space, space.search.seed, samples):
        shown = "  ".join(
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in values.items()
            if not isinstance(space.space[name], Fixed)
        )
        try:
            config = TrialConfig.from_dict(values)
            config.model.check(space.shape, space.search.max_parameters)
        except ConfigError as error:
            yield shown or NOTHING, "infeasible", error.problems[0]
            continue
        memory_mb = peak_memory_mb(config, space.shape, space.images.longest)
        parameters = f"{config.model.parameter_count(space.shape):,}"
        yield shown or NOTHING, parameters, f"{memory_mb:,.0f} MB"
