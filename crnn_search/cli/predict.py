"""The command predict: one sequence of images, or many of a data set.

PyTorch and the libraries of models are imported inside the command.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from crnn_search import api
from crnn_search.cli import terminal
from crnn_search.cli.image_files import image_files
from crnn_search.errors import InputError
from crnn_search.text import counted

if TYPE_CHECKING:
    from crnn_search.data.task_info import TaskInfo
    from crnn_search.models.model import Model, Prediction
    from crnn_search.models.predict_sequences import Predicted

DRAWN = 12
"""Sequences of a data set that `--plot` draws."""


class _Output(NamedTuple):
    """The options of what is written."""

    as_json: bool
    csv: Path | None
    plot: Path | None
    strict: bool


def predict(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model file or folder, or a run.")
    ],
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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    table: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="Write a table: one row a sequence."),
    ] = None,
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
    from crnn_search.models.model import Prediction, pixels_of
    from crnn_search.models.predict_sequences import Predicted

    prepared = model.prepare(files)
    if show is not None:
        from crnn_search.models.seen_sheet import seen_sheet

        terminal.save(show, seen_sheet(prepared))
    pixels, warnings = pixels_of(prepared), model.warnings(prepared)
    (running,) = model.predict_pixels([pixels])
    whole = model.preprocessing.placement is None
    resized = [one for one in prepared if whole and one.size != model.task.shape[1:]]
    found = Predicted(0, pixels, Prediction(running[-1], running, warnings), len(resized))
    example = f"{resized[0].name}, {_size(resized[0].size)}" if resized else ""
    _warn(model, [found], output, [""], example)
    _write(model, [found], output, ["images"])
    if output.as_json:
        names = {"files": [str(file) for file in files]}
        terminal.show(json.dumps(names | found.prediction.to_dict(), indent=2))
        return
    for file, value in zip(files, running, strict=True):
        terminal.show(f"{file}: {_amount(model.task, value)}")
    terminal.show(f"{model.task.target}: {_amount(model.task, running[-1])}")


def _predict_sequences(model: Model, data: str, output: _Output) -> None:
    """Predict the sequences of a data set."""
    from crnn_search.data.sequence_files import open_sequences
    from crnn_search.models.predict_sequences import predict_sequences

    with open_sequences(data, model.task, labelled=False) as sequences:
        names = list(map(str, sequences.found.names))
        kept: list[Predicted] = []
        for one in predict_sequences(model, sequences):
            drawn = output.plot is not None and one.row < DRAWN
            kept.append(one if drawn else one._replace(pixels=one.pixels[:0]))
    found = sorted(kept, key=lambda one: one.row)
    _warn(model, found, output, [f"sequence {name}, " for name in names])
    _write(model, found, output, names)
    if output.as_json:
        rows = [{"sequence": names[one.row]} | one.prediction.to_dict() for one in found]
        terminal.show(json.dumps(rows, indent=2))
        return
    lines = [
        [
            names[one.row],
            str(len(one.prediction.running)),
            _amount(model.task, one.prediction.value),
        ]
        for one in found
    ]
    terminal.show_table(["sequence", "images", model.task.target], lines, right=2)


def _warn(
    model: Model, found: Sequence[Predicted], output: _Output, where: Sequence[str],
    example: str = "",
) -> None:  # fmt: skip
    """Say what makes predictions doubtful. where: what stands before a warning, by row.

    Raises:
        InputError: there is a warning, and warnings are errors.
    """
    lines = [f"{where[one.row]}{warning}" for one in found for warning in one.prediction.warnings]
    if output.strict and lines:
        raise InputError("\n".join(lines))
    for line in lines:
        terminal.complain(f"warning: {line}")
    if resized := sum(one.resized for one in found):
        of, size = sum(len(one.prediction.running) for one in found), _size(model.task.shape[1:])
        first = f"; the first was {example}" if example else ""
        terminal.complain(
            f"note: {resized:,} of {counted(of, 'image')} were resized to {size} pixels "
            f"(rows × columns){first}"
        )


def _write(model: Model, found: Sequence[Predicted], output: _Output, names: Sequence[str]) -> None:
    """Write the table and the picture."""
    if output.csv is not None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["sequence", "images", "prediction", "warnings"])
        for one in found:
            prediction = one.prediction
            length, warnings = len(prediction.running), len(prediction.warnings)
            writer.writerow([names[one.row], length, prediction.value, warnings])
        terminal.save(output.csv, text.getvalue().encode())
    if output.plot is not None:
        shown = [(one.pixels, one.prediction) for one in found if one.row < DRAWN]
        terminal.save(output.plot, _drawn(model.task, shown))


def _drawn(task: TaskInfo, found: Sequence[tuple[Any, Prediction]]) -> bytes:
    """Sequences with the prediction after each image, as a PNG."""
    import numpy as np
    import torch

    from crnn_search.data.running_sheet import running_sheet
    from crnn_search.data.sequences import SequenceTable

    lengths = [len(pixels) for pixels, _ in found]
    indices = torch.zeros(len(found), max(lengths), dtype=torch.int32)
    running = torch.full(indices.shape, math.nan)
    start = 0
    for row, (pixels, prediction) in enumerate(found):
        indices[row, : len(pixels)] = torch.arange(start, start + len(pixels))
        running[row, : len(pixels)] = torch.tensor(prediction.running)
        start += len(pixels)
    images = torch.from_numpy(np.concatenate([pixels for pixels, _ in found]))
    table = SequenceTable(indices, torch.tensor(lengths), torch.zeros(len(found)))
    captions = [_amount(task, prediction.value) for _, prediction in found]
    return running_sheet(images, table, running, captions, formats=("PNG",))


def _amount(task: TaskInfo, value: float) -> str:
    """A prediction to a hundredth of the targets' standard deviation, with its unit."""
    decimals = max(0, 2 - math.floor(math.log10(task.scale)))
    return f"{value:.{decimals}f}" + (f" {task.unit}" if task.unit else "")


def _size(size: Sequence[int]) -> str:
    return " × ".join(map(str, size))
