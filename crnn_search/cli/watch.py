"""The commands that look at runs, here or on a cluster: status, list, trials, logs.

Without `--address` they read a run's own files, and need neither Ray nor PyTorch.
"""

from __future__ import annotations

import datetime
import json
import time
from typing import Annotated, Any

import typer

from crnn_search import api
from crnn_search.cli import options, terminal, trial_table
from crnn_search.errors import InputError
from crnn_search.storage import ledger
from crnn_search.storage.lease import is_held
from crnn_search.storage.run_folder import JOURNAL, LEDGER, LOG, RunFolder
from crnn_search.storage.runs import DEFAULT_STORAGE, newest_run, open_run
from crnn_search.text import duration, figure, first_line, printable_log

FOLLOW_S = 0.5
"""How often a log is read that is followed."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def status(
    run: options.AnyRunOrJob = None, address: options.Dashboard = None, as_json: Json = False
) -> None:
    """Print the state of a run or a job."""
    if address:
        if as_json:
            raise InputError("--json is for runs: it cannot be combined with --address")
        terminal.show(_job_status(_named_job(run), address))
        return
    from crnn_search.results.status import FILES, describe, plan, read_status

    folder = _opened(run, FILES)
    content = read_status(folder)
    if as_json:
        terminal.show(json.dumps(content, indent=2))
        return
    terminal.show(describe(content))
    if not content["held"] and content["stage"] != "finished":
        terminal.show(f"{plan(content)}:\n  {folder.resume_command}")


def list_(
    storage: Annotated[
        str | None, typer.Option(help="The folder of runs, or a URI. [default: runs]")
    ] = None,
    address: options.Dashboard = None,
    as_json: Json = False,
) -> None:
    """List the runs in a folder, or the jobs of a cluster."""
    if address and (storage is not None or as_json):
        raise InputError("list takes --storage or --json, or --address, not both")
    if address:
        terminal.show_table(("job", "status", "started", "run"), _job_rows(address))
        return
    from crnn_search.results.status import list_status

    found = list_status(storage or DEFAULT_STORAGE)
    if as_json:
        contents = [_as_json(run, content) for run, content in found]
        terminal.show(json.dumps(contents, indent=2))
        return
    columns = "run", "state", "started", "duration", "trials", "best RMSE", "test RMSE"
    rows = [_run_row(run, content) for run, content in found]
    terminal.show_table(
        columns, rows, right=4, folded={"run"} if all(map(_is_short, rows)) else None
    )


def trials(
    run: options.AnyRun = None,
    sort: Annotated[
        str,
        typer.Option(
            metavar="COLUMN",
            help="A column of the JSON. By default the best first: a stopped trial is never "
            "before one with its full budget.",
        ),
    ] = trial_table.RANK,
    state: Annotated[
        list[trial_table.State] | None,
        typer.Option(
            metavar="STATE", help=f"Only {', '.join(trial_table.State)} ones. Repeatable."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many trials.")] = None,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, for spreadsheets.")] = False,
) -> None:
    """Print the trials of a search."""
    if as_json and as_csv:
        raise InputError("--json and --csv exclude each other, got both")
    folder = _opened(run, (JOURNAL, LEDGER))
    rows = trial_table.chosen(api.Run(folder).trials(), sort, state)[:limit]
    if as_json:
        terminal.show(json.dumps(rows, indent=2))
    elif as_csv:
        terminal.show(trial_table.csv_text(rows), end="")
    else:
        from crnn_search.spaces.file import load_space

        trial_table.show(rows, load_space(folder.space).searched)


def logs(
    run: options.AnyRunOrJob = None,
    address: options.Dashboard = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Print new output until the run or job ends.")
    ] = False,
) -> None:
    """Print the log of a run or the output of a job."""
    if address:
        from crnn_search.cluster.jobs import Cluster

        cluster = Cluster(address)
        job = cluster.job(_named_job(run))
        if follow:
            cluster.follow(job)
        else:
            terminal.show(printable_log(cluster.log(job)), end="")
        return
    folder = _opened(run, (LOG,))
    if follow:
        _follow(folder)
        return
    options.check_file(folder, folder.log, "the search has not started yet")
    log = folder.log.read_text(encoding="utf-8", errors="replace")
    terminal.show(printable_log(log), end="")


def _follow(run: RunFolder) -> None:
    """Print the log of a run, line by line, until no process works on the run.

    Raises:
        InputError: the run has no log, or is in an object store.
    """
    if run.mirror:
        raise InputError(
            f"--follow takes a run in a folder, got {run.location}, whose log is stored when its "
            "stages end; follow its job with --address"
        )
    while not run.log.is_file() and is_held(run):
        time.sleep(FOLLOW_S)
    options.check_file(run, run.log, "the search has not started yet")
    with run.log.open(encoding="utf-8", errors="replace") as file:
        line, held = "", True
        while held:
            held = is_held(run)  # before the last lines are read
            while part := file.readline():
                line += part
                if line.endswith("\n"):
                    terminal.show(printable_log(line), end="")
                    line = ""
            terminal.flush_now()
            if held:
                time.sleep(FOLLOW_S)
    terminal.show(printable_log(line), end="")


def _opened(run: str | None, wanted: tuple[str, ...]) -> RunFolder:
    """A run, by default the newest one below `runs`."""
    return open_run(run, wanted) if run is not None else newest_run()


def _named_job(job: str | None) -> str:
    """The id of a job. Raises InputError if there is none."""
    if job is None:
        raise InputError("--address needs the id of a job, got none; list shows them")
    return job


def _job_status(job: str, address: str) -> str:
    """The state of a job and the last lines of its output."""
    from crnn_search.cluster.jobs import Cluster

    cluster = Cluster(address)
    found = cluster.job(job)
    text = [f"{found.id}: {found.status.lower()}", f"  run        {found.run}"]
    log = printable_log(cluster.log(found))
    output = [line.strip() for line in log.splitlines() if line.strip()]
    return "\n".join(text + [f"  output     {line}" for line in output[-3:]])


def _job_rows(address: str) -> list[list[str]]:
    from crnn_search.cluster.jobs import Cluster

    rows = []
    for job in Cluster(address).jobs():
        when = job.started_ms and datetime.datetime.fromtimestamp(job.started_ms / 1000)
        rows.append([job.id, job.status.lower(), _minute(when), job.run])
    return rows


def _as_json(run: RunFolder, content: dict[str, Any] | InputError) -> dict[str, Any]:
    if isinstance(content, InputError):
        return {"name": run.name, "location": run.location, "error": str(content)}
    return content


def _run_row(run: RunFolder, content: dict[str, Any] | InputError) -> list[str]:
    if isinstance(content, InputError):
        return [run.name, first_line(content), *[""] * 5]
    found, best = content["trials"], content["best"]
    ended = sum(found[word] for word in ledger.ENDED)
    state, started = content["stage"], content["started"]
    if state != "finished":
        state = f"{'running' if content['held'] else 'stopped'}: {state}"
    return [
        content["name"],
        state,
        _minute(started and datetime.datetime.fromisoformat(started).astimezone()),
        duration(content["elapsed_s"]),
        f"{ended}/{found['requested']}",
        figure(best["validation_rmse"]) if best and best["state"] == "COMPLETE" else "",
        "" if content["test_rmse"] is None else figure(content["test_rmse"]),
    ]


def _minute(when: datetime.datetime | int | None) -> str:
    """A local time, to the minute and with the year if it is another; empty if there is none."""
    if not isinstance(when, datetime.datetime):
        return ""
    this_year = when.year == datetime.datetime.now().year
    return f"{when:%m-%d %H:%M}" if this_year else f"{when:%Y-%m-%d %H:%M}"


def _is_short(row: list[str]) -> bool:
    """Whether a run's state is not the reason why it cannot be read."""
    return len(row[1]) < 20
