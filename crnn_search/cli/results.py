"""The commands on the results of a finished run: report, export, predict.

PyTorch and the libraries of results and models are imported inside the commands.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Annotated

import typer

from crnn_search import api
from crnn_search.cli import options, terminal
from crnn_search.errors import InputError
from crnn_search.storage.location import local_path
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.runs import is_retrained
from crnn_search.text import shown


def report(run: options.Run, data_dir: options.DataDir = None) -> None:
    """Write a finished run's report again and print its summary."""
    folder = _open_retrained(run)
    from crnn_search.data import mnist
    from crnn_search.results.markdown import summary
    from crnn_search.results.report import write_report

    with folder.changes():
        result = write_report(folder, mnist.load(data_dir, test_images=True))
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
    from crnn_search.data import mnist
    from crnn_search.models.export import EXPORT_CHECK_SEQUENCES, export_winner
    from crnn_search.models.folder import FORMATS

    wanted = tuple(formats or FORMATS)
    unknown = [name for name in wanted if name not in FORMATS]
    if unknown:
        raise InputError(f"--format must be one of {', '.join(FORMATS)}, got {shown(unknown[0])}")
    with folder.changes():
        differences = export_winner(folder, wanted, mnist.load(data_dir, test_images=True))
    on = f"on {EXPORT_CHECK_SEQUENCES:,} test sequences"
    for name, difference in differences.items():
        terminal.show(f"{name}: largest difference to PyTorch {on} {difference:.1e}")
    terminal.show(f"written to {folder.location_of(folder.model)}")


def predict(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model file or folder, or a run.")
    ],
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE", help="Images of one digit each, in order.")
    ],
) -> None:
    """Print the predicted sum after each image of a sequence."""
    import torch

    from crnn_search.models.images import read_image
    from crnn_search.models.predictor import running_sums

    predictor = api.load_model(model).predictor
    warn = functools.partial(print, "warning:", file=sys.stderr)
    pixels = torch.stack([read_image(local_path(image), warn) for image in images]).unsqueeze(1)
    for image, total in zip(images, running_sums(predictor, pixels), strict=True):
        terminal.show(f"{image}: {total:.2f}")


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
