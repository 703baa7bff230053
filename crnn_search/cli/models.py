"""The commands on models: export, predict.

PyTorch and the libraries of models are imported inside the commands.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crnn_search import api
from crnn_search.cli import options, terminal
from crnn_search.cli.image_files import image_files
from crnn_search.cli.results import check_models
from crnn_search.errors import InputError
from crnn_search.text import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crnn_search.data.task_info import TaskInfo
    from crnn_search.models.model import Model, Prediction
    from crnn_search.models.preprocessing import Prepared


def export(
    run: options.Run,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="safetensors or onnx. By default both."),
    ] = None,
    data_dir: options.DataDir = None,
) -> None:
    """Write a finished run's model files, checked against PyTorch."""
    found = api.open_run(run)
    found.check(force=True)
    folder = found.folder
    options.check_file(folder, folder.retrained, "its winner has not been retrained yet")
    check_models(folder)
    from crnn_search.models.export import check_table, export_winner
    from crnn_search.models.folder import FORMATS
    from crnn_search.pipeline.source import open_again
    from crnn_search.results import exported, report

    wanted = tuple(formats or FORMATS)
    unknown = [name for name in wanted if name not in FORMATS]
    if unknown:
        raise InputError(f"--format must be one of {', '.join(FORMATS)}, got {shown(unknown[0])}")
    with folder.changes():
        task = open_again(folder, data_dir).load(test=True)
        metrics = exported.metrics(folder) if report.is_scored(folder) else {}
        differences = export_winner(folder, wanted, task, metrics)
    on, unit = f"on {len(check_table(task)):,} test sequences", _unit(task.info)
    for name, difference in differences.items():
        terminal.show(f"{name}: largest difference to PyTorch {on} {difference:.1e}{unit}")
    terminal.show(f"written to {folder.location_of(folder.model)}")


def predict(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model file or folder, or a run.")
    ],
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE",
            help="A sequence's images, in order, one digit each for MNIST: files, folders, "
            "patterns, or - for a list of files on standard input.",
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="PNG", help="Draw the images with the prediction after each."),
    ] = None,
    show: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Draw what the network sees.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="A warning is an error.")] = False,
) -> None:
    """Print the prediction after each image of a sequence."""
    from crnn_search.models.input_warnings import refuse
    from crnn_search.models.model import Prediction, pixels_of

    found = api.load_model(model)
    files = image_files(images)
    prepared = found.prepare(files)
    if show is not None:
        from crnn_search.models.seen_sheet import seen_sheet

        terminal.save(show, seen_sheet(prepared))
    warnings = found.warnings(prepared)
    for warning in [] if strict else warnings:
        terminal.complain(f"warning: {warning}")
    if strict:
        refuse(warnings)
    _note_resized(found, prepared)
    (running,) = found.predict_pixels([pixels_of(prepared)])
    prediction = Prediction(running[-1], running, warnings)
    if plot is not None:
        terminal.save(plot, _drawn(found.task, prepared, prediction))
    if as_json:
        names = {"files": [str(file) for file in files]}
        terminal.show(json.dumps(names | prediction.to_dict(), indent=2))
        return
    for file, value in zip(files, running, strict=True):
        terminal.show(f"{file}: {_amount(found.task, value)}")
    terminal.show(f"{found.task.target}: {_amount(found.task, prediction.value)}")


def _note_resized(model: Model, images: Sequence[Prepared]) -> None:
    """Say how many images were resized, of a model that takes whole images."""
    from crnn_search.data.images import size_text

    size = model.task.shape[1:]
    resized = [image for image in images if image.size != size]
    if resized and model.preprocessing.placement is None:
        terminal.complain(
            f"note: {len(resized)} of {len(images)} images were resized to {size_text(size)} "
            f"pixels (rows × columns); the first was {resized[0].name}, "
            f"{size_text(resized[0].size)}"
        )


def _drawn(task: TaskInfo, images: Sequence[Prepared], prediction: Prediction) -> bytes:
    """The images with the prediction after each, as a PNG."""
    import torch

    from crnn_search.data.running_sheet import running_sheet
    from crnn_search.data.sequences import SequenceTable
    from crnn_search.models.model import pixels_of

    count = len(images)
    table = SequenceTable(
        torch.arange(count, dtype=torch.int32)[None], torch.tensor([count]), torch.zeros(1)
    )
    caption = _amount(task, prediction.value)
    pixels, running = torch.from_numpy(pixels_of(images)), torch.tensor([prediction.running])
    return running_sheet(pixels, table, running, [caption], ["PNG"])


def _amount(task: TaskInfo, value: float) -> str:
    """A prediction to a hundredth of the targets' standard deviation, with its unit."""
    decimals = max(0, 2 - math.floor(math.log10(task.scale)))
    return f"{value:.{decimals}f}{_unit(task)}"


def _unit(task: TaskInfo) -> str:
    """What follows a number."""
    return f" {task.unit}" if task.unit else ""
