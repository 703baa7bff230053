"""Runs as jobs of a Ray cluster: submitted, listed, followed and stopped through its dashboard.

A job brings this package, the space and a small data set along; the nodes have the dependencies
installed. Its driver runs on the head. Whoever submits needs the dashboard's address and, where the
cluster asks for one, its token (`RAY_AUTH_TOKEN`, or the file `~/.ray/auth_token`), which Ray's
client sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

import crnn_search
from crnn_search.cluster.provenance import COMMIT_VARIABLE, JOB_VARIABLE, git_commit
from crnn_search.errors import InputError, RunError
from crnn_search.text import first_line, printable_log, shown

PROGRAM = "exec python -P -m crnn_search"
"""What a job runs; `exec`, so that a signal to the job is one to the driver, and -P because Ray has
the folder with the package in PYTHONPATH."""

STOP_WAIT_S = 60
"""How long a job that is stopped may take to write its files, before it is killed."""

RUN_KEY = "crnn_search_run"
SPACE_NAME = "space.yaml"
NO_FILES: Mapping[str, Path] = {}
ENDED = {"STOPPED", "SUCCEEDED", "FAILED"}


@dataclass(frozen=True)
class Submitted:
    """A job of this package. status: Ray's word for it. run: its folder or URI.

    started_ms: milliseconds since 1970; None before it started.
    """

    id: str
    status: str
    run: str
    started_ms: int | None

    @property
    def ended(self) -> bool:
        return self.status in ENDED


class Cluster:
    """A cluster's job server.

    Raises:
        InputError: nothing answers at the address, or the token is missing or wrong.
    """

    def __init__(self, address: str) -> None:
        if not address.startswith(("http://", "https://")):
            raise InputError(
                f"--address must be a dashboard's, such as http://HEAD:8265, got {shown(address)}"
            )
        try:
            with _no_other_address():
                self._client = JobSubmissionClient(address)
        except AuthenticationError as error:
            raise InputError(
                f"the Ray dashboard at {address} rejects the request: {first_line(error)}"
            ) from error
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"no Ray dashboard answers at {address}: {error}; it is at port 8265 of the head, "
                "and only there unless it was started with another --dashboard-host: use an SSH "
                "tunnel"
            ) from error

    def submit(
        self,
        arguments: Sequence[str],
        run: str,
        space: str | None = None,
        files: Mapping[str, Path] = NO_FILES,
    ) -> str:
        """Run `crnn-search` with these arguments on the cluster's head; returns the job's id.

        run: its folder or URI. space: the text of the space, a file `SPACE_NAME` for the command.
        files: copied for the command, by their names relative to its folder.

        Raises:
            InputError: one of the files cannot be read.
        """
        job = f"{run.rstrip('/').rpartition('/')[2]}-{secrets.token_hex(3)}"
        variables = {JOB_VARIABLE: job, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}
        if commit := git_commit():
            variables[COMMIT_VARIABLE] = commit
        with tempfile.TemporaryDirectory(prefix="crnn-search-") as folder:
            package = Path(crnn_search.__file__).parent
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(package, Path(folder) / package.name, ignore=ignored)
            if space is not None:
                (Path(folder) / SPACE_NAME).write_text(space, encoding="utf-8")
            _copy(files, Path(folder))
            with _no_upload_messages():
                self._client.submit_job(
                    entrypoint=f"{PROGRAM} {shlex.join(arguments)}",
                    submission_id=job,
                    runtime_env={"working_dir": folder, "env_vars": variables},
                    metadata={RUN_KEY: run},
                )
        return job

    def jobs(self) -> list[Submitted]:
        """The jobs of this package, oldest first; Ray's own list has others, too."""
        jobs = [_submitted(job) for job in self._client.list_jobs() if _is_ours(job)]
        return sorted(jobs, key=lambda job: job.started_ms or 0)

    def job(self, name: str) -> Submitted:
        """A job by its id, or the newest one of a run, by its folder or address.

        Raises:
            InputError: there is none.
        """
        known = self.jobs()
        found = [job for job in known if name == job.id or name.rstrip("/") == job.run]
        if not found:
            raise InputError(
                f"the cluster has no job or run {shown(name)}; its jobs of this package: "
                + (", ".join(job.id for job in known) or "none")
            )
        return found[-1]

    def stop(self, job: Submitted) -> Submitted:
        """Stop a job as Ctrl-C would, and wait until it has ended.

        Raises:
            RunError: it does not end in time.
        """
        self._client.stop_job(job.id)
        timeout_s = STOP_WAIT_S + 30
        deadline = time.monotonic() + timeout_s
        while not (job := self.job(job.id)).ended:
            if time.monotonic() > deadline:
                raise RunError(
                    f"{job.id} has not stopped within {timeout_s} s: it is {job.status.lower()}"
                )
            time.sleep(0.5)
        return job

    def log(self, job: Submitted) -> str:
        """The output of its driver so far."""
        return str(self._client.get_job_logs(job.id))

    def follow(self, job: Submitted) -> None:
        """Print the output of its driver until the job ends."""

        async def follow() -> None:
            async for text in self._client.tail_job_logs(job.id):
                print(printable_log(text), end="", flush=True)

        asyncio.run(follow())


def _copy(files: Mapping[str, Path], folder: Path) -> None:
    for name, path in files.items():
        place = folder / name
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
        except OSError as error:
            raise InputError(f"cannot copy {path} for the job: {error.strerror}") from error


@contextlib.contextmanager
def _no_other_address() -> Iterator[None]:
    """Hide environment variables that Ray's client prefers to the address it is given."""
    names = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


@contextlib.contextmanager
def _no_upload_messages() -> Iterator[None]:
    """Keep Ray's client from logging what it uploads, and that a file has more than 10 MB."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.dashboard.modules.dashboard_sdk")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _is_ours(job: JobDetails) -> bool:
    return RUN_KEY in (job.metadata or {})


def _submitted(job: JobDetails) -> Submitted:
    metadata = job.metadata or {}
    return Submitted(str(job.submission_id), job.status.value, metadata[RUN_KEY], job.start_time)
