"""The commands that submit, list, follow and stop runs, here or on a cluster."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from crnn_search.errors import InputError
from crnn_search.storage.run_folder import open_run, runs

WATCH_S = 90
"""How long `stop` waits for a run to be let go."""

Dashboard = Annotated[
    str | None,
    typer.Option(help="A Ray cluster's dashboard, as http://HEAD:8265."),
]
RunOrJob = Annotated[
    str,
    typer.Argument(metavar="RUN|JOB", help="A run's folder or, with --address, a job's id, too."),
]


def submit(
    address: Annotated[str, typer.Option(help="The cluster's dashboard, as http://HEAD:8265.")],
    space: Annotated[
        Path | None, typer.Argument(metavar="[SPACE]", help="A search space, a YAML file.")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="The folder that holds runs, seen by every node.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The run's name; the space's name and the time by default.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with this run, instead of a new one.")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="How many trials to run.")] = None,
    time_budget: Annotated[str | None, typer.Option(metavar="TIME", help="As for launch.")] = None,
    compute_budget: Annotated[
        str | None, typer.Option(metavar="AMOUNT", help="As for launch.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="As for launch.")
    ] = None,
    data_dir: Annotated[
        str | None, typer.Option(help="A folder of the head with MNIST's four files.")
    ] = None,
) -> None:
    """Launch a run on a cluster, or go on with one, from elsewhere; print its job's id."""
    if (space is None) == (resume is None):
        raise InputError("submit takes a SPACE to search or --resume RUN, one of the two")
    if resume is not None:
        if any(x is not None for x in (storage, name, trials, time_budget, compute_budget)):
            raise InputError("--resume goes with --address and --data-dir only")
        run, text = _seen_by_all("--resume", resume), None
        arguments = ["resume", run]
    else:
        assert space is not None
        run, text, arguments = _new_run(space, storage, name, trials, overrides or [])
        arguments += _budgets(time_budget, compute_budget)
    arguments += ["--address", "auto", *(["--data-dir", data_dir] if data_dir else [])]
    from crnn_search.cluster.jobs import Cluster

    job = Cluster(address).submit(arguments, run, text)
    print(f"job: {job}\nrun: {run}")
    print(f"follow it with\n  crnn-search logs {job} --address {address} --follow")


def list_runs(
    storage: Annotated[str | None, typer.Option(help="The folder that holds runs.")] = None,
    address: Dashboard = None,
) -> None:
    """List the runs in a storage, or the jobs of a cluster."""
    table = Table(box=None, pad_edge=False)
    if address:
        if storage is not None:
            raise InputError("list takes --storage or --address, not both")
        from crnn_search.cluster.jobs import Cluster

        for column in ("job", "status", "began", "run"):
            table.add_column(column, overflow="fold")
        for job in Cluster(address).jobs():
            began = ""
            if job.began_ms:
                when = datetime.datetime.fromtimestamp(job.began_ms / 1000)
                began = when.isoformat(" ", "minutes")
            table.add_row(job.id, job.status.lower(), began, job.run)
    else:
        for column in ("run", "stage", "worked on", "trials ended", "best RMSE"):
            table.add_column(column, overflow="fold")
        for place in runs(storage or "runs"):
            table.add_row(*_row(place))
    Console().print(table)


def logs(
    run: RunOrJob,
    address: Dashboard = None,
    follow: Annotated[bool, typer.Option(help="Go on until the job ends.")] = False,
) -> None:
    """Print what a run has had to say: a job's output, or a run's own log."""
    if address:
        from crnn_search.cluster.jobs import Cluster

        cluster = Cluster(address)
        job = cluster.job(run)
        if follow:
            cluster.follow(job)
        else:
            print(cluster.log(job), end="")
        return
    if follow:
        raise InputError("--follow needs --address: only a job's output can be followed")
    log = open_run(run).log
    if not log.is_file():
        raise InputError(f"{run} has no {log.name} yet")
    print(log.read_text(encoding="utf-8"), end="")


def stop(run: RunOrJob, address: Dashboard = None) -> None:
    """Stop a run as Ctrl-C does, wherever it is worked on; nothing is lost."""
    if address:
        from crnn_search.cluster.jobs import Cluster

        cluster = Cluster(address)
        job = cluster.job(run)
        if job.ended:
            raise InputError(f"{job.id} has ended already: {job.status.lower()}")
        job = cluster.stop(job)
        print(f"{job.id}: {job.status.lower()}; go on with")
        print(f"  crnn-search submit --resume {job.run} --address {address}")
        return
    from crnn_search.storage import lease

    paths = open_run(run)
    if not lease.stop(paths, WATCH_S):
        raise InputError(
            f"nobody works on {run}, as far as this machine can see; name a cluster's job with "
            "--address"
        )
    print(f"{run} was stopped; go on with\n  crnn-search resume {run}")


def job_status(job: str, address: str) -> str:
    """What a cluster knows of a job, in some lines; and what its run's own files say, if seen."""
    from crnn_search.cluster.jobs import Cluster

    cluster = Cluster(address)
    known = cluster.job(job)
    text = [f"{known.id}: {known.status.lower()}", f"  run        {known.run}"]
    said = [line for line in cluster.log(known).splitlines() if line.strip()]
    return "\n".join(text + [f"  said       {line.strip()}" for line in said[-3:]])


def _new_run(
    space: Path, storage: str | None, name: str | None, trials: int | None, changes: list[str]
) -> tuple[str, str, list[str]]:
    """A new run's place, its space's text, and the command that launches it."""
    from crnn_search.cluster.jobs import SPACE_NAME
    from crnn_search.spaces.file import load_space
    from crnn_search.spaces.space import to_yaml
    from crnn_search.storage.object_store import join

    more = [] if trials is None else [f"search.trials={trials}"]
    text = to_yaml(load_space(space, [*changes, *more]))
    if storage is None:
        raise InputError("submit needs --storage: a folder that every node of the cluster sees")
    storage = _seen_by_all("--storage", storage)
    name = name or f"{space.stem}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    if name in {".", ".."} or name != Path(name).name:
        raise InputError(f"a run's name must be a plain folder name, got {name!r}")
    return (
        join(storage, name),
        text,
        ["launch", SPACE_NAME, "--storage", storage, "--name", name],
    )


def _budgets(time: str | None, compute: str | None) -> list[str]:
    from crnn_search.tuning.budget import parse_budget

    parse_budget(time, compute)
    words = ["--time-budget", time] if time else []
    return words + (["--compute-budget", compute] if compute else [])


def _seen_by_all(option: str, place: str) -> str:
    if "://" not in place and not Path(place).is_absolute():
        raise InputError(
            f"{option} must be an absolute folder, which every node of the cluster sees, got "
            f"{place!r}"
        )
    return place


def _row(place: str) -> list[str]:
    from crnn_search.results.status import read_status

    try:
        known = read_status(open_run(place))
    except InputError as error:
        return [place.rstrip("/").rpartition("/")[2], str(error), "", "", ""]
    trials, best = known["trials"], known["best"]
    ended = trials["completed"] + trials["stopped"] + trials["failed"]
    return [
        known["name"],
        known["stage"],
        "yes" if known["worked_on"] else "no",
        f"{ended} of {trials['asked']}",
        f"{best['rmse']:.3f}" if best else "",
    ]
