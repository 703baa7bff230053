"""Arguments and options that several commands share, and the command that continues a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crnn_search.errors import InputError
from crnn_search.storage.run_folder import RunFolder

SpaceFile = Annotated[
    Path, typer.Argument(metavar="SPACE", help="A search space: a YAML file.", show_default=False)
]
Run = Annotated[
    str, typer.Argument(metavar="RUN", help="A run: its folder, its name below runs, or its URI.")
]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="A model file or folder, or a run.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Table = Annotated[
    Path | None,
    typer.Option("--csv", metavar="FILE", help="Write a table: one row a sequence."),
]
AnyRun = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN", help="A run. By default the one below runs that was worked on last."
    ),
]
RunOrJob = Annotated[
    str,
    typer.Argument(metavar="RUN|JOB", help="A run or, with --address, also the id of a job."),
]
AnyRunOrJob = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN|JOB",
        help="A run, by default the one below runs that was worked on last; with --address a job.",
    ),
]
Name = Annotated[
    str | None,
    typer.Option(help="The run's name. By default the space's, the time and a random number."),
]
Trials = Annotated[int | None, typer.Option(help="Number of trials of the search.")]
TimeBudget = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Time limit of the whole run, such as 2h or 90min."),
]
ComputeBudget = Annotated[
    str | None,
    typer.Option(metavar="AMOUNT", help="Compute limit of the run: 20gpuh or 20corehours."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a value of the space, such as search.seed=1. Repeatable.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(help="A Ray cluster: auto or HOST:6379. By default a local Ray starts."),
]
Force = Annotated[bool, typer.Option("--force", help="Trust a run of another user.")]
Dashboard = Annotated[
    str | None,
    typer.Option(help="The dashboard of a Ray cluster, such as http://HEAD:8265."),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        help="MNIST's four files, raw or .gz, by default a download; or a space's own data, by "
        "default task.data."
    ),
]
OnTrialEnd = Annotated[
    str | None,
    typer.Option(
        metavar="COMMAND",
        help="Run this command at each trial's end, with its line of the ledger as input.",
    ),
]
OnEnd = Annotated[
    str | None,
    typer.Option(
        metavar="COMMAND", help="Run this command at the run's end, with a summary as input."
    ),
]
StudyStorage = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="A PostgreSQL or MySQL database for the copy of the study, in place of the run's "
        "study.db. A URL with a password goes into CRNN_SEARCH_STUDY_STORAGE.",
    ),
]
Verbose = Annotated[
    bool, typer.Option("--verbose", help="Show the log of Ray and the libraries, too.")
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print the result only, not what happens before it.")
]


def check_file(run: RunFolder, path: Path, reason: str) -> None:
    """Check that a file of a run exists.

    Raises:
        InputError: it does not; says the reason.
    """
    if not path.is_file():
        raise InputError(f"{run.location} has no {path.name}: {reason}")
