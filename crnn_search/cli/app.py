"""The command line: parse, call, print, set the exit code. The only place that sets up logging.

Ray, PyTorch and Optuna are imported inside the commands that need them, so that `--help` is quick.
"""

from __future__ import annotations

import datetime
import importlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from crnn_search.cli import jobs
from crnn_search.errors import CrnnSearchError, InputError, StorageError
from crnn_search.storage.object_store import is_uri
from crnn_search.storage.run_folder import RunPaths, check_owner, create_run, open_run, remove_run

if TYPE_CHECKING:
    from crnn_search.pipeline.run import Options
    from crnn_search.tuning.progress import Progress

app = typer.Typer(
    name="crnn-search",
    help="Search hyperparameters of a CNN-GRU on a Ray cluster, and report what can be trusted.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

INTERRUPTED = 130
NOTHING = "(nothing is searched)"

SpaceFile = Annotated[Path, typer.Argument(metavar="SPACE", help="A search space, a YAML file.")]
Run = Annotated[
    str, typer.Argument(metavar="RUN", help="The folder of a run, as runs/NAME, or its URI.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one value of the space, as --set search.seed=1. May be repeated.",
    ),
]
Name = Annotated[
    str | None, typer.Option(help="The run's name; the space's name and the time by default.")
]
Address = Annotated[
    str | None,
    typer.Option(help="A Ray cluster, as auto or HOST:6379; a local Ray by default."),
]
Verbose = Annotated[bool, typer.Option(help="Show what Ray has to say, too.")]
TimeBudget = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="How long the whole run may take, as 2h or 90min."),
]
ComputeBudget = Annotated[
    str | None,
    typer.Option(metavar="AMOUNT", help="What it may use, as 20gpuh or 20corehours."),
]
DataDir = Annotated[
    Path | None,
    typer.Option(help="A folder with MNIST's four files, raw or .gz, instead of a download."),
]


@app.command()
def launch(
    space: SpaceFile,
    name: Name = None,
    storage: Annotated[
        str, typer.Option(help="The folder that holds runs, or a URI, as s3://BUCKET/PREFIX.")
    ] = "runs",
    address: Address = None,
    trials: Annotated[int | None, typer.Option(help="How many trials to run.")] = None,
    time_budget: TimeBudget = None,
    compute_budget: ComputeBudget = None,
    warm_start: Annotated[
        list[str] | None,
        typer.Option(metavar="RUN", help="Learn from an earlier run, too. May be repeated."),
    ] = None,
    overrides: Overrides = None,
    data_dir: DataDir = None,
    verbose: Verbose = False,
) -> None:
    """Search a space, retrain the winner, report its test RMSE, export it."""
    from crnn_search.spaces.file import load_space
    from crnn_search.tuning.budget import parse_budget

    changes = list(overrides or [])
    if trials is not None:
        changes.append(f"search.trials={trials}")
    searched = load_space(space, changes)
    budget = parse_budget(time_budget, compute_budget)
    warm_runs = [open_run(run).location for run in warm_start or []]
    run = create_run(storage, name or f"{space.stem}-{datetime.datetime.now():%Y%m%d-%H%M%S}")

    def work(progress: Progress, options: Options) -> dict[str, Any]:
        from crnn_search.pipeline import run as launching

        return launching.run(searched, run, progress, options, budget=budget, warm_runs=warm_runs)

    try:
        _work_on(run, work, address, data_dir, verbose)
    except InputError:
        if not run.manifest.exists():  # nothing was started: leave nothing, not even the name
            remove_run(run)
        raise


@app.command()
def resume(
    run: Run,
    address: Address = None,
    force: Annotated[bool, typer.Option(help="Trust a run of another user, too.")] = False,
    data_dir: DataDir = None,
    verbose: Verbose = False,
) -> None:
    """Go on with a run that was stopped or died, from where it was."""
    paths = open_run(run)
    if not force:
        check_owner(paths)
    from crnn_search.results.status import describe, plan, read_status

    status = read_status(paths)
    print(describe(status))
    print(plan(status))
    if status["stage"] == "finished":
        return

    def work(progress: Progress, options: Options) -> dict[str, Any]:
        from crnn_search.pipeline import run as launching

        return launching.resume(paths, progress, options)

    _work_on(paths, work, address, data_dir, verbose)


@app.command()
def extend(
    run: Run,
    trials: Annotated[int, typer.Option(min=1, help="How many more trials to run.")],
    time_budget: TimeBudget = None,
    compute_budget: ComputeBudget = None,
    address: Address = None,
    data_dir: DataDir = None,
    verbose: Verbose = False,
) -> None:
    """Add trials to a run's search: same study, same rungs; then report anew."""
    from crnn_search.tuning.budget import parse_budget

    budget = parse_budget(time_budget, compute_budget)
    paths = open_run(run)
    _needs(paths.manifest, "the run never began; launch it again")

    def work(progress: Progress, options: Options) -> dict[str, Any]:
        from crnn_search.pipeline import run as launching

        return launching.extend(paths, trials, progress, options, budget)

    _work_on(paths, work, address, data_dir, verbose)


@app.command()
def status(
    run: jobs.RunOrJob,
    address: jobs.Dashboard = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Tell where a run stands, from its own files alone, or what a cluster knows of its job."""
    if address:
        print(jobs.job_status(run, address))
        return
    from crnn_search.results.status import describe, plan, read_status

    known = read_status(open_run(run))
    print(json.dumps(known, indent=2) if as_json else describe(known))
    if not as_json and not known["worked_on"] and known["stage"] != "finished":
        print(f"{plan(known)}:\n  crnn-search resume {run}")


app.command("submit")(jobs.submit)
app.command("list")(jobs.list_runs)
app.command("logs")(jobs.logs)
app.command("stop")(jobs.stop)


def _work_on(
    run: RunPaths,
    work: Callable[[Progress, Options], dict[str, Any]],
    address: str | None,
    data_dir: Path | None,
    verbose: bool,
) -> None:
    """Work on a run and print what came of it; two Ctrl-C end it at once."""
    console = Console()
    console.print(f"run: {run.location}", highlight=False)
    _configure_logging(run, verbose)

    from crnn_search.cli.display import show_on
    from crnn_search.pipeline.run import Options
    from crnn_search.results.markdown import summary

    progress = show_on(console)
    try:
        result = work(progress, Options(address, data_dir, verbose))
    except KeyboardInterrupt:
        progress.close()
        print(
            f"interrupted: go on with\n  crnn-search resume {run.location}",
            file=sys.stderr,
            flush=True,
        )
        os._exit(INTERRUPTED)  # without waiting for anything of Ray's
    finally:
        progress.close()
    console.print(summary(result), highlight=False, soft_wrap=True)
    console.print(
        f"\nreport: {run.place(run.report_markdown)}\nmodel:  {run.place(run.model)}",
        highlight=False,
    )


@app.command()
def check(
    space: SpaceFile,
    samples: Annotated[int, typer.Option(min=1, help="How many configurations to draw.")] = 5,
    overrides: Overrides = None,
) -> None:
    """Validate a space and show configurations drawn from it, with their size."""
    from crnn_search.errors import ConfigError
    from crnn_search.hyperparameters import TrialConfig
    from crnn_search.spaces.domains import Fixed
    from crnn_search.spaces.file import load_space
    from crnn_search.spaces.space import sample
    from crnn_search.training.footprint import parameter_count, peak_memory_mb

    searched = load_space(space, list(overrides or []))
    table = Table(box=None, pad_edge=False)
    for column in ("configuration", "parameters", "peak memory"):
        table.add_column(column, justify="left" if column == "configuration" else "right")
    for values in sample(searched, searched.search.seed, samples):
        shown = "  ".join(
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in values.items()
            if not isinstance(searched.space[name], Fixed)
        )
        try:
            config = TrialConfig.from_dict(values)
        except ConfigError as error:
            table.add_row(shown or NOTHING, "impossible", error.problems[0])
            continue
        longest = min(config.training.max_sequence_length, searched.task.max_digits)
        memory = peak_memory_mb(config.model, config.training.batch_size, longest)
        table.add_row(shown or NOTHING, f"{parameter_count(config.model):,}", f"{memory:,.0f} MB")
    console = Console()
    console.print(f"{space} is valid.", highlight=False, soft_wrap=True)
    console.print(table)
    share = searched.infeasible_share()
    if share:
        console.print(f"{share:.0%} of the sampled networks are impossible and will be skipped.")


@app.command()
def tensorboard(
    run: Run,
    port: Annotated[int, typer.Option(help="The port; 0 takes a free one.")] = 6006,
) -> None:
    """Open TensorBoard on a run, on this machine's loopback address."""
    paths = open_run(run)
    if not paths.tensorboard.is_dir():
        raise InputError(f"{run} has no TensorBoard files: no trial has ended an epoch yet")
    command = [
        sys.executable, "-m", "tensorboard.main", "--logdir", str(paths.tensorboard),
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    raise typer.Exit(subprocess.run(command, check=False).returncode)


@app.command()
def report(run: Run, data_dir: DataDir = None) -> None:
    """Write a finished run's report anew and print its summary."""
    paths = open_run(run)
    _needs_models(paths)
    from crnn_search.data import mnist
    from crnn_search.results.markdown import summary
    from crnn_search.results.report import write_report

    result = write_report(paths, mnist.load(data_dir, test_images=True))
    paths.push()
    Console().print(summary(result), highlight=False, soft_wrap=True)


@app.command()
def export(
    run: Run,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="safetensors, onnx or pt2; all three by default."),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Write a finished run's model to its model/ folder, each format checked against PyTorch."""
    paths = open_run(run)
    _needs_models(paths)
    from crnn_search.data import mnist
    from crnn_search.models.export import export_winner
    from crnn_search.models.predictor import FORMATS

    wanted = tuple(formats or FORMATS)
    unknown = [name for name in wanted if name not in FORMATS]
    if unknown:
        raise InputError(f"--format must be one of {', '.join(FORMATS)}, got {unknown[0]!r}")
    differences = export_winner(paths, wanted, mnist.load(data_dir, test_images=True))
    for name, difference in differences.items():
        print(f"{name}: largest difference to PyTorch on 1,000 test sequences {difference:.1e}")
    paths.push()
    print(f"written to {paths.place(paths.model)}")


@app.command()
def predict(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A model file, a model folder, a run's folder or its URI."
        ),
    ],
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Images of one digit each, in order.")
    ],
) -> None:
    """Print the predicted sum after each image of a sequence."""
    import torch

    from crnn_search.models.predictor import load, read_image, running_sums

    predictor = load(open_run(model).root if is_uri(model) else Path(model))
    pixels = torch.stack([read_image(image) for image in images])
    for image, total in zip(images, running_sums(predictor, pixels), strict=True):
        print(f"{image}: {total:.2f}")


def main() -> None:
    """Run the command line; exit codes: 0 done, 1 failed, 2 wrong input, 130 interrupted."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it when it is imported
    try:
        code: Any = app(prog_name="crnn-search", standalone_mode=False)
        if code == INTERRUPTED:  # what an interruption becomes inside a command
            print("interrupted", file=sys.stderr)
    except CrnnSearchError as error:
        kind = "interrupted" if error.exit_code == INTERRUPTED else "error"
        print(f"{kind}: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        code = _usage_error(error)
    if code == INTERRUPTED:  # at once: a local Ray's processes end with this one
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)
    sys.exit(code)


def _usage_error(error: Exception) -> int:
    """Exit code of an error in the command line itself; anything else is raised again."""
    show = getattr(error, "show", None)
    if show is not None:
        show()
        return int(getattr(error, "exit_code", 2))
    raise error


def _needs(path: Path, reason: str) -> None:
    if not path.is_file():
        raise InputError(f"there is no {path}: {reason}")


def _needs_models(run: RunPaths) -> None:
    _needs(run.retrained, "the run has not been retrained yet")
    if not run.is_retrained():
        raise InputError(
            f"a model in {run.retrained_models} is gone; write it again with\n"
            f"  crnn-search resume {run.root}"
        )


def _configure_logging(run: RunPaths, verbose: bool) -> None:
    """Send what the libraries log to the run's log file, and to the terminal if it is wanted."""
    try:
        handlers: list[logging.Handler] = [logging.FileHandler(run.log, encoding="utf-8")]
    except OSError as error:
        raise StorageError(run.log, error) from error
    if verbose:
        handlers.append(logging.StreamHandler())
    logging.basicConfig(
        level=logging.INFO,
        handlers=handlers,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.captureWarnings(True)
    for library in ("optuna", "ray"):  # both write to the terminal by handlers of their own
        importlib.import_module(library)
        logger = logging.getLogger(library)
        logger.handlers.clear()
        logger.propagate = True
