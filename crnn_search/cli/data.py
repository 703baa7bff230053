"""The commands on users' own data sets: data check, data example."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from crnn_search.cli import options, terminal
from crnn_search.storage.location import is_uri, local_path

if TYPE_CHECKING:
    from crnn_search.data.images import Progress
    from crnn_search.spaces.space import SearchSpace

app = typer.Typer(
    help="Check a data set of your own, or write an example.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def check(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A folder with metadata.csv, or an .npz file: its path or URI.",
            show_default=False,
        ),
    ],
    target: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The target, if there are several columns.")
    ] = None,
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="ROWS COLUMNS", help="Resize images. By default most files' size."),
    ] = None,
    channels: Annotated[
        int | None, typer.Option(metavar="1|3", help="Convert images to grey (1) or colour (3).")
    ] = None,
    contact_sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a picture, a PNG file, of a dozen sequences."),
    ] = None,
) -> None:
    """Read a data set and print what is in it."""
    from crnn_search.data.contact_sheet import contact_sheet as draw
    from crnn_search.data.images import ImageFormat
    from crnn_search.data.read import read
    from crnn_search.data.summary import describe, warnings

    place = data if is_uri(data) else local_path(data)
    with progress_bar() as progress:
        found = read(place, target=target, image=ImageFormat(size, channels), progress=progress)
    terminal.show(f"{data} is valid.")
    for name, value in describe(found):
        terminal.show(f"{name + ':':<11} {value}")
    for warning in warnings(found):
        terminal.show(f"warning: {warning}")
    if contact_sheet is not None:
        terminal.save(contact_sheet, draw(found))


@app.command()
def example(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A new folder.", show_default=False)
    ],
    source: Annotated[
        Literal["mnist", "digits"],
        typer.Option(help="Whose digits: MNIST's, or the smaller ones of scikit-learn."),
    ] = "mnist",
    coloured: Annotated[
        bool, typer.Option("--coloured", help="Red and blue digits; only red ones count.")
    ] = False,
    sequences: Annotated[int, typer.Option(min=100, help="Number of sequences.")] = 2000,
    data_dir: options.DataDir = None,
) -> None:
    """Write an example: sequences of digits, their sums, and a space."""
    from crnn_search.data.example import write_example

    write_example(folder, source=source, coloured=coloured, sequences=sequences, data_dir=data_dir)
    terminal.show(
        f"{folder} has {sequences:,} sequences. Look at them, then search:\n"
        f"  crnn-search data check {folder} --contact-sheet sheet.png\n"
        f"  crnn-search launch {folder / 'space.yaml'}"
    )


def read_for(space: SearchSpace, data_dir: Path | None = None) -> SearchSpace:
    """Read the data set of a space, with a bar, and fit the space to it; MNIST is not read.

    data_dir: the data set's place, if that is not `task.data`.

    Raises:
        DataError: the data set is not valid.
        SpaceError: it does not fit the space.
    """
    if space.task.data is None:
        return space
    from crnn_search.pipeline.source import fit_to, open_source

    with progress_bar() as progress:
        source = open_source(space.task, data_dir, progress=progress)
    for warning in source.warnings:
        terminal.show(f"warning: {warning}")
    return fit_to(source, space)


@contextlib.contextmanager
def progress_bar(console: Console | None = None) -> Iterator[Progress]:
    """A bar for each part of reading a data set, if the console is a terminal.

    console: by default standard output.
    """
    console = console or terminal.lasting_console()
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )  # fmt: skip
    tasks: dict[str, TaskID] = {}
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        yield show
