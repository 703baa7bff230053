"""The command export.

PyTorch and the libraries of models are imported inside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from crnn_search import api
from crnn_search.cli import options, terminal
from crnn_search.cli.results import check_models
from crnn_search.errors import InputError
from crnn_search.text import shown

if TYPE_CHECKING:
    from crnn_search.data.task_info import TaskInfo


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


def _unit(task: TaskInfo) -> str:
    """What follows a number."""
    return f" {task.unit}" if task.unit else ""
