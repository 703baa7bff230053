"""The commands that act on runs, here or on a cluster: stop and submit.

Without `--address` they read a run's own files, and need neither Ray nor PyTorch.
"""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crnn_search.cli import options, terminal
from crnn_search.cli.data import read_for
from crnn_search.errors import InputError
from crnn_search.storage.location import is_uri, join, local_path
from crnn_search.storage.runs import check_run_name, default_name, open_run
from crnn_search.text import shown

if TYPE_CHECKING:
    from crnn_search.spaces.space import SearchSpace

STOP_TIMEOUT_S = 90
"""How long `stop` waits for a run's process to end."""

SHIPPED_BYTES = 100_000_000
"""A data set with less is shipped with a job."""

DATA_FOLDER = "data"
"""Where a job finds a data set that was shipped with it."""


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
