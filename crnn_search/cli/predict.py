"""The command predict: one sequence of images, or many of a data set.

PyTorch and the libraries of models are imported inside the command.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from crnn_search import api
from crnn_search.cli import options, terminal
from crnn_search.cli.image_files import image_files
from crnn_search.errors import InputError
from crnn_search.text import counted

if TYPE_CHECKING:
    from crnn_search.data.task_info import TaskInfo
    from crnn_search.models.model import Model
    from crnn_search.models.sequence_images import Predicted

DRAWN = 12
"""Sequences of a data set that `--plot` draws."""


class _Output(NamedTuple):
    """The options of what is written."""

    as_json: bool
    csv: Path | None
    plot: Path | None
    strict: bool


def predict(
    model: options.Model,
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE",
            help="A sequence's images, in order, one digit each for MNIST: files, folders, "
            "patterns, or - for a list of files on standard input.",
        ),
    ] = None,
    sequences: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Many sequences in place of images: a folder with metadata.csv or an .npz file, "
            "with or without targets.",
        ),
    ] = None,
    as_json: options.AsJson = False,
    table: options.Table = None,
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
    output = _Output(as_json, table, plot, strict)
    if sequences is None:
        if not images:
            raise InputError("predict needs the images of a sequence, or --sequences, got neither")
        _predict_images(api.load_model(model), image_files(images), output, show)
        return
    if images or show is not None:
        given = f"the image {images[0]}" if images else f"--show {show}"
        raise InputError(f"--sequences goes without images and without --show, got {given}")
    _predict_sequences(api.load_model(model), sequences, output)


def _predict_images(
    model: Model, files: Sequence[Path], output: _Output, show: Path | None
) -> None:
    """Predict one sequence of image files."""
    from crnn_search.data.images import size_text
    from crnn_search.models.model import Prediction, pixels_of
    from crnn_search.models.sequence_images import Predicted

    prepared = model.prepare(files)
    if show is not None:
        from crnn_search.models.seen_sheet import seen_sheet

        terminal.save(show, seen_sheet(prepared))
    pixels, warnings = pixels_of(prepared), model.warnings(prepared)
    (running,) = model.predict_pixels([pixels])
    whole = model.preprocessing.placement is None
    resized = [one for one in prepared if whole and one.size != model.task.shape[1:]]
    found = Predicted(pixels, Prediction(running[-1], running, warnings), len(resized))
    example = f"{resized[0].name}, {size_text(resized[0].size)}" if resized else ""
    _warn(model, {"": found}, output, example)
    _write(model, {"images": found}, output)
    if output.as_json:
        names = {"files": [str(file) for file in files]}
        terminal.show(json.dumps(names | found.prediction.to_dict(), indent=2))
        return
    for file, value in zip(files, running, strict=True):
        terminal.show(f"{file}: {_amount(model.task, value)}")
    terminal.show(f"{model.task.target}: {_amount(model.task, running[-1])}")


def _predict_sequences(model: Model, data: str, output: _Output) -> None:
    """Predict the sequences of a data set."""
    import numpy as np

    from crnn_search.data.sequence_files import open_sequences
    from crnn_search.models.sequence_images import images_of, predict_all

    with open_sequences(data, model.task, labelled=False) as sequences:
        names = list(map(str, sequences.found.names))
        by_row: dict[int, Predicted] = {}
        for rows, part in predict_all(images_of(model, sequences, np.arange(len(names)))):
            for row, one in zip(rows.tolist(), part, strict=True):
                drawn = output.plot is not None and row < DRAWN
                by_row[row] = one if drawn else one._replace(pixels=one.pixels[:0])
    found = {name: by_row[row] for row, name in enumerate(names)}
    _warn(model, {f"sequence {name}, ": one for name, one in found.items()}, output)
    _write(model, found, output)
    if output.as_json:
        rows_ = [{"sequence": name} | one.prediction.to_dict() for name, one in found.items()]
        terminal.show(json.dumps(rows_, indent=2))
        return
    lines = []
    for name, one in found.items():
        value, length = one.prediction.value, len(one.prediction.running)
        lines.append([name, f"{length:,}", _amount(model.task, value)])
    terminal.show_table(["sequence", "images", model.task.target], lines, right=2)


def _warn(model: Model, found: Mapping[str, Predicted], output: _Output, example: str = "") -> None:
    """Say what makes predictions doubtful. found: by what stands before a warning.

    Raises:
        InputError: there is a warning, and warnings are errors.
    """
    from crnn_search.data.images import size_text

    lines = [
        f"{where}{warning}" for where, one in found.items() for warning in one.prediction.warnings
    ]
    if output.strict and lines:
        raise InputError("\n".join(lines))
    for line in lines:
        terminal.complain(f"warning: {line}")
    if resized := sum(one.resized for one in found.values()):
        of = sum(len(one.prediction.running) for one in found.values())
        first = f"; the first was {example}" if example else ""
        terminal.complain(
            f"note: {resized:,} of {counted(of, 'image')} were resized to "
            f"{size_text(model.task.shape[1:])} pixels (rows × columns){first}"
        )


def _write(model: Model, found: Mapping[str, Predicted], output: _Output) -> None:
    """Write the table and the picture. found: by the sequence's name."""
    if output.csv is not None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["sequence", "images", "prediction", "warnings"])
        for name, (_, prediction, _) in found.items():
            length, warnings = len(prediction.running), len(prediction.warnings)
            writer.writerow([name, length, prediction.value, warnings])
        terminal.save(output.csv, text.getvalue().encode())
    if output.plot is not None:
        from crnn_search.data.running_sheet import Row, running_sheet

        rows = [
            Row(pixels, prediction.running, _amount(model.task, prediction.value))
            for pixels, prediction, _ in list(found.values())[:DRAWN]
        ]
        terminal.save(output.plot, running_sheet(rows, ["PNG"]))


def _amount(task: TaskInfo, value: float) -> str:
    """A prediction to a hundredth of the targets' standard deviation, with its unit."""
    decimals = max(0, 2 - math.floor(math.log10(task.scale)))
    return f"{value:.{decimals}f}" + (f" {task.unit}" if task.unit else "")
