"""The command line: its commands by subject, and the exit code of the process.

The functions of the commands are in the modules that are imported here.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from crnn_search import __version__, signals
from crnn_search.cli import (
    boards,
    data,
    evaluate,
    export,
    predict,
    results,
    runs,
    search,
    serve,
    terminal,
    watch,
)
from crnn_search.cluster import settings
from crnn_search.errors import CrnnSearchError, InputError, InterruptedRun
from crnn_search.text import cut

if TYPE_CHECKING:
    from collections.abc import Callable

COMMANDS: dict[str, dict[str, Callable[..., None] | typer.Typer]] = {
    "Search": {
        "launch": search.launch,
        "resume": search.resume,
        "extend": search.extend,
        "check": search.check,
    },
    "Data": {
        "data": data.app,
    },
    "Runs": {
        "status": watch.status,
        "list": watch.list_,
        "trials": watch.trials,
        "logs": watch.logs,
        "stop": runs.stop,
        "submit": runs.submit,
        "tensorboard": boards.tensorboard,
        "dashboard": boards.dashboard,
    },
    "Results": {
        "report": results.report,
        "compare": results.compare,
        "export": export.export,
        "predict": predict.predict,
        "evaluate": evaluate.evaluate,
        "serve": serve.serve,
    },
}
"""Every command by its subject."""


class _Grouped(TyperGroup):
    """Lists the commands by subject in `--help`."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        column = max(map(len, self.commands))
        for subject, names in COMMANDS.items():
            rows = [
                (name.ljust(column), self.commands[name].get_short_help_str(formatter.width))
                for name in names
            ]
            with formatter.section(subject):
                formatter.write_dl(rows)


app = typer.Typer(
    name="crnn-search",
    cls=_Grouped,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for _commands in COMMANDS.values():
    for _name, _command in _commands.items():
        if isinstance(_command, typer.Typer):
            app.add_typer(_command, name=_name)
        else:
            app.command(_name)(_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"crnn-search {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Distributed hyperparameter search for a CNN-GRU on a Ray cluster."""


def main() -> None:
    """Run the command line; exit codes: 0 done, 1 failed, 2 wrong input, 130 interrupted."""
    terminal.prepare()
    settings.apply()
    with signals.handled():
        code = terminal.flush(_run())
    if code == InterruptedRun.exit_code:  # at once: a local Ray's processes end with this one
        os._exit(code)
    sys.exit(code)


def _run() -> int:
    """Run a command and print its error, if it has one; returns the exit code."""
    try:
        _leave_out_current_folder()
        code: Any = app(prog_name="crnn-search", standalone_mode=False)
        if code == InterruptedRun.exit_code:  # what Typer makes of a Ctrl-C inside a command
            terminal.complain("interrupted")
    except CrnnSearchError as error:
        kind = "interrupted" if isinstance(error, InterruptedRun) else "error"
        terminal.complain(f"{kind}: {error}")
        code = error.exit_code
    except KeyboardInterrupt:
        code = InterruptedRun.exit_code
    except OSError as error:
        if error.filename is not None or terminal.flush(0) == 0:  # else it was the output
            terminal.complain(f"error: {_system_error(error)}")
        code = 1
    except Exception as error:
        code = _usage_error(error)
    return int(code or 0)


def _leave_out_current_folder() -> None:
    """Import nothing from the current folder; nor do processes that this one starts.

    Python searches it for `python -c`, for a program that lies in it, and for an empty entry of
    PYTHONPATH. `crnn_search/__init__.py` leaves it out for `python -m`.

    Raises:
        InputError: it was deleted.
    """
    try:
        here = os.getcwd()  # noqa: PTH109  (pathlib has the same error)
    except OSError as error:
        raise InputError(
            f"the current folder cannot be used: {error.strerror}; change to another one"
        ) from error
    if sys.path[0] in {"", here}:
        del sys.path[0]
    given = os.environ.get("PYTHONPATH")
    if given:
        entries = given.split(os.pathsep)
        kept = [entry for entry in entries if os.path.normpath(entry or ".") != "."]
        os.environ["PYTHONPATH"] = os.pathsep.join(kept)
        if kept != entries and here not in kept and here in sys.path:
            sys.path.remove(here)


def _usage_error(error: Exception) -> int:
    """Print an error in the command line itself; returns its exit code, or raises any other."""
    show = getattr(error, "show", None)
    if show is None:
        raise error
    message = io.StringIO()
    show(file=message)
    terminal.complain("\n".join(map(cut, message.getvalue().splitlines())))
    return int(getattr(error, "exit_code", 2))


def _system_error(error: OSError) -> str:
    """What the system refused that no command expected: which file, and why."""
    if error.filename is None:
        return str(error)
    return (
        f"cannot use {error.filename}: {error.strerror}; make room, or make it readable and "
        "writable, then run the command again"
    )
