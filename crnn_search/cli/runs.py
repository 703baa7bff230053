"""The commands on runs, here or on a cluster: status, list, logs, stop, submit.

Without `--address` they read a run's own files, and need neither Ray nor PyTorch.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crnn_search.cli import options, terminal
from crnn_search.cli.data import read_for
from crnn_search.errors import InputError
from crnn_search.storage import ledger
from crnn_search.storage.location import is_uri, join, local_path
from crnn_search.storage.run_folder import LOG, RunFolder
from crnn_search.storage.runs import DEFAULT_STORAGE, check_run_name, default_name, open_run
from crnn_search.text import first_line, printable_log, shown

if TYPE_CHECKING:
    from crnn_search.spaces.space import SearchSpace

STOP_TIMEOUT_S = 90
"""How long `stop` waits for a run's process to end."""

SHIPPED_BYTES = 100_000_000
"""A data set with less is shipped with a job."""

DATA_FOLDER = "data"
"""Where a job finds a data set that was shipped with it."""


def status(
    run: options.RunOrJob,
    address: options.Dashboard = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Print the state of a run or a job."""
    if address:
        if as_json:
            raise InputError("--json is for runs: it cannot be combined with --address")
        terminal.show(_job_status(run, address))
        return
    from crnn_search.results.status import FILES, describe, plan, read_status

    folder = open_run(run, FILES)
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
) -> None:
    """List the runs in a folder, or the jobs of a cluster."""
    if address and storage is not None:
        raise InputError("list takes --storage or --address, not both")
    if address:
        terminal.show_table(("job", "status", "started", "run"), _job_rows(address))
        return
    columns = "run", "stage", "running", "trials ended", "best RMSE"
    terminal.show_table(columns, _run_rows(storage or DEFAULT_STORAGE))


def logs(
    run: options.RunOrJob,
    address: options.Dashboard = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Print new output until the job ends.")
    ] = False,
) -> None:
    """Print the log of a run or the output of a job."""
    if address:
        from crnn_search.cluster.jobs import Cluster

        cluster = Cluster(address)
        job = cluster.job(run)
        if follow:
            cluster.follow(job)
        else:
            terminal.show(printable_log(cluster.log(job)), end="")
        return
    if follow:
        raise InputError("--follow needs --address: only a job's output can be followed")
    folder = open_run(run, (LOG,))
    options.check_file(folder, folder.log, "the search has not started yet")
    log = folder.log.read_text(encoding="utf-8", errors="replace")
    terminal.show(printable_log(log), end="")


def stop(run: options.RunOrJob, address: options.Dashboard = None) -> None:
    """Stop a run or a job as Ctrl-C does; it can be resumed."""
    if address:
        from crnn_search.cluster.jobs import Cluster

        cluster = Cluster(address)
        job = cluster.job(run)
        if job.ended:
            raise InputError(f"{job.id} has ended already: {job.status.lower()}")
        job = cluster.stop(job)
        command = shlex.join(["crnn-search", "submit", "--resume", job.run, "--address", address])
        terminal.show(f"{job.id}: {job.status.lower()}; continue with\n  {command}")
        return
    from crnn_search.storage import lease

    folder = open_run(run, ())
    if not lease.stop(folder, STOP_TIMEOUT_S):
        raise InputError(
            f"no process runs {folder.location}, as far as this machine can see; to stop a "
            "cluster's job add --address"
        )
    terminal.show(f"{folder.location} was stopped; continue with\n  {folder.resume_command}")


def submit(
    address: Annotated[
        str, typer.Option(help="The cluster's dashboard, such as http://HEAD:8265.")
    ],
    space: Annotated[
        Path | None, typer.Argument(metavar="SPACE", help="A search space: a YAML file.")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="The folder of runs on every node, or a URI.")
    ] = None,
    name: options.Name = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Continue this run instead of a new one.")
    ] = None,
    trials: options.Trials = None,
    time_budget: options.TimeBudget = None,
    compute_budget: options.ComputeBudget = None,
    overrides: options.Overrides = None,
    data_dir: Annotated[
        str | None,
        typer.Option(
            help="Where the head finds the data: a folder with MNIST's four files, or"
            " the folder or .npz file of the space's own data."
        ),
    ] = None,
) -> None:
    """Launch or resume a run as a job of a cluster."""
    files: dict[str, Path] = {}
    if (space is None) == (resume is None):
        raise InputError("submit takes either a SPACE to search or --resume RUN, one of the two")
    if space is None:
        given = (storage, name, trials, time_budget, compute_budget, overrides)
        if any(value is not None for value in given):
            raise InputError("--resume can be combined with --address and --data-dir only")
        run, text = _on_every_node("--resume", str(resume)), None
        arguments = ["resume", run]
    else:
        storage = _on_every_node("--storage", storage)
        name = name or default_name(space.stem)
        check_run_name(name, storage)
        run = join(storage, name)
        arguments = ["launch", "--storage", storage, "--name", name]
        arguments += _budget_arguments(time_budget, compute_budget)
        searched = _load_space(space, trials, overrides)
        text, files = _shipped(searched, ships_data=data_dir is None)
    arguments += ["--address", "auto", *(["--data-dir", data_dir] if data_dir else [])]
    from crnn_search.cluster.jobs import SPACE_NAME, Cluster

    if text is not None:
        arguments.insert(1, SPACE_NAME)
    job = Cluster(address).submit(arguments, run, text, files)
    follow = shlex.join(["crnn-search", "logs", job, "--address", address, "--follow"])
    terminal.show(f"job: {job}\nrun: {run}\nfollow it with\n  {follow}")


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
        started = ""
        if job.started_ms is not None:
            when = datetime.datetime.fromtimestamp(job.started_ms / 1000)
            started = when.isoformat(" ", "minutes")
        rows.append([job.id, job.status.lower(), started, job.run])
    return rows


def _run_rows(storage: str) -> list[list[str]]:
    from crnn_search.results.status import list_status

    return [_run_row(run, content) for run, content in list_status(storage)]


def _run_row(run: RunFolder, content: dict[str, Any] | InputError) -> list[str]:
    if isinstance(content, InputError):
        return [run.name, first_line(content), "", "", ""]
    trials, best = content["trials"], content["best"]
    ended = sum(trials[word] for word in ledger.ENDED)
    return [
        content["name"],
        content["stage"],
        "yes" if content["held"] else "no",
        f"{ended} of {trials['requested']}",
        f"{best['validation_rmse']:.3f}" if best else "",
    ]


def _on_every_node(option: str, location: str | None) -> str:
    """Check that a location means the same on every node of a cluster.

    Raises:
        InputError: it is missing or a relative folder.
    """
    if location is not None and not is_uri(location):
        location = str(local_path(location))
    if location is None or not (is_uri(location) or Path(location).is_absolute()):
        got = "nothing" if location is None else shown(location)
        raise InputError(
            f"{option} must be an absolute folder, which every node of the cluster sees, or a URI, "
            f"got {got}"
        )
    return location


def _load_space(space: Path, trials: int | None, overrides: list[str] | None) -> SearchSpace:
    """A space with its changes, checked."""
    from crnn_search.spaces.file import load_space

    changes = [*(overrides or []), *([] if trials is None else [f"search.trials={trials}"])]
    return load_space(local_path(space), changes)


def _shipped(space: SearchSpace, *, ships_data: bool) -> tuple[str, dict[str, Path]]:
    """The YAML of a space for a job, and the files of its data set by their names for the job.

    Raises:
        InputError: the data set is not valid, too large, or does not fit the space.
    """
    from crnn_search.spaces.space import to_yaml

    data = space.task.data
    if data is None or is_uri(data) or not ships_data:
        return to_yaml(space), {}
    from crnn_search.data.read import source_files

    files = source_files(Path(data), space.task.target)
    size = sum(path.stat().st_size for path in files.values())
    if size >= SHIPPED_BYTES:
        raise InputError(
            f"submit ships data sets below {SHIPPED_BYTES / 1e6:.0f} MB with the job, got "
            f"{size / 1e6:,.0f} MB in {data}; name the place where the head finds them with "
            "--data-dir, give task.data as a URI such as s3://BUCKET/FOLDER, or launch on the head"
        )
    read_for(space)
    place = f"{DATA_FOLDER}/{Path(data).resolve().name}"
    task = space.task.model_copy(update={"data": place})
    named = {f"{DATA_FOLDER}/{name}": path for name, path in files.items()}
    return to_yaml(dataclasses.replace(space, task=task)), named


def _budget_arguments(time: str | None, compute: str | None) -> list[str]:
    """The options of a budget, checked."""
    from crnn_search.tuning.budget import parse_budget

    parse_budget(time, compute)
    arguments = [] if time is None else ["--time-budget", time]
    return arguments + ([] if compute is None else ["--compute-budget", compute])
