"""The command line: its commands by subject, and the exit code of the process.

The functions of the commands are in `search`, `runs` and `results`.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from crnn_search import __version__
from crnn_search.cli import results, runs, search, terminal
from crnn_search.errors import CrnnSearchError, InterruptedRun
from crnn_search.text import cut

if TYPE_CHECKING:
    from collections.abc import Callable

COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "Search": {
        "launch": search.launch,
        "resume": search.resume,
        "extend": search.extend,
        "check": search.check,
    },
    "Runs": {
        "status": runs.status,
        "list": runs.list_,
        "logs": runs.logs,
        "stop": runs.stop,
        "submit": runs.submit,
        "tensorboard": runs.tensorboard,
    },
    "Results": {
        "report": results.report,
        "export": results.export,
        "predict": results.predict,
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
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it when it is imported
    interrupted = InterruptedRun.exit_code
    try:
        code: Any = app(prog_name="crnn-search", standalone_mode=False)
        if code == interrupted:  # what Typer makes of a Ctrl-C inside a command
            terminal.complain("interrupted")
    except CrnnSearchError as error:
        kind = "interrupted" if error.exit_code == interrupted else "error"
        terminal.complain(f"{kind}: {error}")
        code = error.exit_code
    except KeyboardInterrupt:
        code = interrupted
    except OSError as error:
        if error.filename is not None or terminal.flush(0) == 0:  # else it was the output
            terminal.complain(f"error: {_system_error(error)}")
        code = 1
    except Exception as error:
        code = _usage_error(error)
    code = terminal.flush(int(code or 0))
    if code == interrupted:  # at once: a local Ray's processes end with this one
        os._exit(interrupted)
    sys.exit(code)


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
