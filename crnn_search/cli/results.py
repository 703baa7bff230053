"""The commands on the results of a finished run: report, export, predict.

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
    from crnn_search.data.task import TaskInfo


def report(run: options.Run, data_dir: options.DataDir = None) -> None:
    """Write a finished run's report again and print its summary."""
    folder = _open_retrained(run)
    from crnn_search.pipeline.source import open_again
    from crnn_search.results.markdown import summary
    from crnn_search.results.report import write_report

    with folder.changes():
        result = write_report(folder, open_again(folder, data_dir).load(test=True))
    terminal.show(summary(result))


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
    run = found.folder
    options.check_file(run, run.retrained, "its winner has not been retrained yet")
    if not is_retrained(run):
        raise InputError(
            f"a model is missing in {run.location_of(run.retrained_models)}; train it again with\n"
            f"  {run.resume_command}"
        )
    return run
