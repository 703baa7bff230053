"""The commands on the results of runs: report, compare, export, predict.

PyTorch and the libraries of results and models are imported inside the commands.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crnn_search import api
from crnn_search.cli import options, terminal
from crnn_search.errors import InputError
from crnn_search.storage.location import local_path
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.runs import is_retrained
from crnn_search.text import shown

if TYPE_CHECKING:
    from crnn_search.data.task_info import TaskInfo


def report(
    run: options.Run,
    data_dir: options.DataDir = None,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Predict the test sequences again, too.")
    ] = False,
) -> None:
    """Write a run's report again, or what is known so far."""
    found = api.open_run(run)
    found.check(force=True)
    folder = found.folder
    if not folder.retrained.is_file():
        _report_unfinished(folder, rescore=rescore)
        return
    _check_models(folder)
    from crnn_search.pipeline.source import open_again
    from crnn_search.results.report import is_scored, write_again, write_report
    from crnn_search.results.summary import summary

    with folder.changes():
        if is_scored(folder) and not rescore:
            result = write_again(folder)
        else:
            result = write_report(folder, open_again(folder, data_dir).load(test=True))
    terminal.show(summary(result))
    terminal.show(f"\nreport: {folder.location_of(folder.report_html)}")


def _report_unfinished(run: RunFolder, *, rescore: bool) -> None:
    """Write what is known of a run whose winner has not been retrained."""
    if rescore:
        raise InputError(f"--rescore needs a retrained winner: {run.location} has none yet")
    from crnn_search.results.report import write_unfinished

    with run.changes():
        write_unfinished(run)
    terminal.show(
        f"{run.location} is not finished: its report has what is known so far\n"
        f"report: {run.location_of(run.report_html)}"
    )


def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Two runs or more.")],
    rmse: Annotated[
        list[float] | None,
        typer.Option(
            "--rmse",
            help="Say how many trials each run took to this validation RMSE. Repeatable. By "
            "default the best of each run.",
        ),
    ] = None,
    html: Annotated[Path, typer.Option("--html", help="Where the page is written.")] = Path(
        "comparison.html"
    ),
) -> None:
    """Put runs side by side, here and as a page."""
    from crnn_search.results.compare import compare_runs, write_page

    if len(runs) < 2:
        raise InputError(f"compare needs two runs at least, got {len(runs)}")
    comparison = compare_runs([api.open_run(run).folder for run in runs], rmse or [])
    for part in comparison.parts:
        terminal.show(f"\n{part.title}")
        if part.rows:
            terminal.show_table(part.header, part.rows)
        if part.note:
            terminal.show(part.note)
    write_page(comparison, html)
    terminal.show(f"\npage: {html}")


def export(
    run: options.Run,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="safetensors or onnx. By default both."),
    ] = None,
    data_dir: options.DataDir = None,
) -> None:
    """Write a finished run's model files, checked against PyTorch."""
    folder = _open_retrained(run)
    from crnn_search.models.export import check_table, export_winner
    from crnn_search.models.folder import FORMATS
    from crnn_search.pipeline.source import open_again

    wanted = tuple(formats or FORMATS)
    unknown = [name for name in wanted if name not in FORMATS]
    if unknown:
        raise InputError(f"--format must be one of {', '.join(FORMATS)}, got {shown(unknown[0])}")
    with folder.changes():
        task = open_again(folder, data_dir).load(test=True)
        differences = export_winner(folder, wanted, task)
    on, unit = f"on {len(check_table(task)):,} test sequences", _unit(task.info)
    for name, difference in differences.items():
        terminal.show(f"{name}: largest difference to PyTorch {on} {difference:.1e}{unit}")
    terminal.show(f"written to {folder.location_of(folder.model)}")


def predict(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model file or folder, or a run.")
    ],
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE", help="A sequence's images, in order; one digit each for MNIST."
        ),
    ],
) -> None:
    """Print the prediction after each image of a sequence."""
    from crnn_search.models.images import read_images
    from crnn_search.models.predictor import running_predictions

    predictor = api.load_model(model).predictor
    task = predictor.task
    pixels = read_images([local_path(image) for image in images], task, terminal.complain)
    decimals = max(0, 2 - math.floor(math.log10(task.scale)))  # to 0.01 standard deviations
    for image, value in zip(images, running_predictions(predictor, pixels), strict=True):
        terminal.show(f"{image}: {value:.{decimals}f}{_unit(task)}")


def _unit(task: TaskInfo) -> str:
    """What follows a number."""
    return f" {task.unit}" if task.unit else ""


def _open_retrained(location: str) -> RunFolder:
    """The run at a location, whose retrained models all exist.

    Raises:
        InputError: it is not such a run, or has another format.
    """
    found = api.open_run(location)
    found.check(force=True)
    options.check_file(
        found.folder, found.folder.retrained, "its winner has not been retrained yet"
    )
    _check_models(found.folder)
    return found.folder


def _check_models(run: RunFolder) -> None:
    """Check that a run's retrained models all exist. Raises InputError."""
    if not is_retrained(run):
        raise InputError(
            f"a model is missing in {run.location_of(run.retrained_models)}; train it again with\n"
            f"  {run.resume_command}"
        )
