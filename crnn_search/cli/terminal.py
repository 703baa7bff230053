"""Standard output and standard error, whatever they are: a terminal, a pipe, a full disk, nothing.

What their encoding lacks is replaced, control characters are escaped, and nothing is markup.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

from rich.console import Console
from rich.table import Table

from crnn_search.errors import CrnnSearchError
from crnn_search.text import printable

MAX_WIDTH = 10_000
"""Of a line that is not for a terminal."""


def prepare() -> None:
    """Make standard output and standard error usable: called once, before anything is opened.

    A stream that is closed becomes the null device: else the next file that is opened would get its
    number, and all that a library prints.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:  # the lowest number that is free
        os.set_inheritable(handle, True)
    os.close(handle)
    sys.stdout = sys.stdout or _null()
    sys.stderr = sys.stderr or _null()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def show(text: str, end: str = "\n") -> None:
    """Print to standard output.

    Raises:
        CrnnSearchError: it cannot be written.
    """
    with _written():
        print(printable(text), end=end)


def flush_now() -> None:
    """Write what `show` has printed so far.

    Raises:
        CrnnSearchError: it cannot be written.
    """
    with _written():
        sys.stdout.flush()


def save(path: Path, content: bytes) -> None:
    """Write a file that the user named.

    Raises:
        CrnnSearchError: it cannot be written.
    """
    try:
        path.write_bytes(content)
    except OSError as error:
        raise CrnnSearchError(f"cannot write {path}: {error.strerror}") from error


def complain(text: str) -> None:
    """Print to standard error, if it can be written."""
    with contextlib.suppress(OSError):
        print(printable(text), file=sys.stderr, flush=True)


def show_table(
    columns: Iterable[str],
    rows: Iterable[Iterable[str]],
    *,
    right: int = 0,
    folded: Collection[str] | None = None,
) -> None:
    """Print a table. right: how many of its last columns are right-aligned.

    folded: the columns that a narrow terminal may break into lines, by default all.

    Raises:
        CrnnSearchError: it cannot be written.
    """
    names = list(columns)
    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(names):
        side = "right" if place >= len(names) - right else "left"
        table.add_column(
            name,
            overflow="fold",
            no_wrap=folded is not None and name not in folded,
            justify=side,  # type: ignore[arg-type]
        )
    for row in rows:
        table.add_row(*map(printable, row))
    with _written():
        _wide_console().print(table)


def show_columns(columns: Mapping[str, Sequence[str]], right: Collection[str]) -> list[str]:
    """Print as many columns as a terminal has room for, else all; returns the names of the others.

    right: those that are right-aligned.

    Raises:
        CrnnSearchError: it cannot be written.
    """
    out = _wide_console()
    table, left = Table(box=None, pad_edge=False), out.width
    cells: list[Iterator[str]] = []
    left_out: list[str] = []
    for name, values in columns.items():
        width = max(map(len, [name, *map(printable, values)])) + 2 * bool(cells)  # columns apart
        if width > left:
            left_out.append(name)
            continue
        left -= width
        table.add_column(name, no_wrap=True, justify="right" if name in right else "left")
        cells.append(map(printable, values))
    for row in zip(*cells, strict=True):
        table.add_row(*row)
    with _written():
        out.print(table)
    return left_out


def _wide_console() -> Console:
    """A console without a width where there is no terminal, and no COLUMNS: programs read it."""
    out = console()
    if not out.is_terminal and "COLUMNS" not in os.environ:
        out.width = MAX_WIDTH
    return out


def console(file: IO[str] | None = None) -> Console:
    """A console for texts that are not markup. file: by default standard output."""
    return Console(file=file, markup=False, emoji=False, highlight=False)


def lasting_console() -> Console:
    """A console on standard output for a run, which goes on if nothing can be printed any more."""
    return console(cast("IO[str]", _Lasting(sys.stdout)))


def no_console() -> Console:
    """A console that shows nothing."""
    return Console(quiet=True, file=io.StringIO())


def flush(code: int) -> int:
    """Write what is left of standard output; returns the exit code, 1 in place of 0 if that fails.

    A reader that has gone, such as `head`, needs no message.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        if error.errno != errno.EPIPE:
            complain(f"error: cannot write the output: {error.strerror}")
        _discard(sys.stdout)
        code = code or 1
    try:
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)
    return code


@contextlib.contextmanager
def _written() -> Iterator[None]:
    """A block that prints. A reader that has gone ends the process, by Typer or Rich."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard(sys.stdout)
        raise CrnnSearchError(f"cannot write the output: {error.strerror}") from error


class _Lasting:
    """A stream whose errors do not matter."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):  # it is closed when the process ends
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def _null() -> IO[str]:
    return Path(os.devnull).open("w", encoding="utf-8")


def _discard(stream: IO[str]) -> None:
    """Let a stream's unwritten text go to the null device, so that Python can end quietly."""
    handle, null = stream.fileno(), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, handle)
    os.close(null)
