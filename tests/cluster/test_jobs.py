"""The client of a cluster's job server, in process: what it sends, and what it refuses."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import AuthenticationError

from crnn_search.cluster import jobs
from crnn_search.cluster.jobs import Cluster, Submitted
from crnn_search.cluster.provenance import COMMIT_VARIABLE, JOB_VARIABLE
from crnn_search.errors import InputError, RunError

ADDRESS = "http://head:8265"
LIBRARY = logging.getLogger("ray")
UPLOADS = logging.getLogger("ray.dashboard.modules.dashboard_sdk")


class FakeClient:
    """In place of Ray's `JobSubmissionClient`: a job server without jobs."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.environment = dict(os.environ)
        self.jobs: list[Any] = []
        self.sent: dict[str, Any] = {}
        self.imported = ""
        self.files: set[str] = set()

    def submit_job(self, **sent: Any) -> None:
        """See what the job would find in its folder."""
        self.sent = sent
        folder = Path(sent["runtime_env"]["working_dir"])
        self.files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
        self.logged = UPLOADS.isEnabledFor(logging.WARNING)
        self.logged |= logging.getLogger("ray.any").isEnabledFor(logging.WARNING)
        self.printed = subprocess.run(
            [sys.executable, "-m", "crnn_search", "--help"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout

    def list_jobs(self) -> list[Any]:
        return self.jobs

    def stop_job(self, job: str) -> None:
        """The job does not stop by itself."""

    def get_job_logs(self, job: str) -> str:
        return f"output of {job}"


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    fake = FakeClient(ADDRESS)
    monkeypatch.setattr(jobs, "JobSubmissionClient", lambda address: fake)
    return fake


def details(job: str, run: str | None, start_time: int | None, status: str = "RUNNING") -> Any:
    """A job as Ray describes it. run: None for another program's."""
    metadata = None if run is None else {"crnn_search_run": run}
    return SimpleNamespace(
        submission_id=job,
        status=SimpleNamespace(value=status),
        metadata=metadata,
        start_time=start_time,
    )


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@pytest.mark.parametrize("address", ["auto", "head:8265", "ray://head:10001"])
def test_address_must_be_a_dashboards(address: str) -> None:
    with pytest.raises(InputError, match=f"such as http://HEAD:8265, got '{address}'"):
        Cluster(address)


def test_address_without_a_dashboard_is_refused() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(InputError, match=f"no Ray dashboard answers at {address}: .*SSH tunnel"):
        Cluster(address)


@pytest.mark.parametrize("reason", ["failed: Forbidden", "required: Unauthorized"])
def test_wrong_token_is_refused(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    def refuse(address: str) -> None:
        raise AuthenticationError(f"Authentication {reason}\nand much more")

    monkeypatch.setattr(jobs, "JobSubmissionClient", refuse)
    message = f"^the Ray dashboard at {ADDRESS} rejects the request: Authentication {reason}$"
    with pytest.raises(InputError, match=message):
        Cluster(ADDRESS)


def test_environment_of_the_process_is_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's client prefers these variables to the address that it is given."""
    monkeypatch.setattr(jobs, "JobSubmissionClient", FakeClient)
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://elsewhere:8265")
    before = dict(os.environ)
    client: Any = Cluster(ADDRESS)._client
    assert dict(os.environ) == before
    assert not {"RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"} & client.environment.keys()


def test_import_changes_no_log_level() -> None:
    code = (
        f"import logging, ray.job_submission; logger = logging.getLogger({UPLOADS.name!r}); "
        "before = logger.level; from crnn_search.cluster import jobs; print(logger.level - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


def test_job_has_the_whole_package_its_space_and_its_commit(
    client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(COMMIT_VARIABLE, "abc")
    level, library_level = UPLOADS.level, LIBRARY.level
    arguments = ["launch", "space.yaml", "--set", "space.dropout={float: [0, 0.5]}"]
    job = Cluster(ADDRESS).submit(arguments, "/shared/runs/demo/", "space: {}")
    assert job.startswith("demo-")
    assert client.sent["submission_id"] == job
    assert client.sent["metadata"] == {"crnn_search_run": "/shared/runs/demo/"}
    assert client.sent["entrypoint"] == (
        "exec python -P -m crnn_search launch space.yaml --set 'space.dropout={float: [0, 0.5]}'"
    )
    assert client.sent["runtime_env"]["env_vars"] == {
        JOB_VARIABLE: job,
        COMMIT_VARIABLE: "abc",
        "RAY_JOB_STOP_WAIT_TIME_S": "60",
    }
    needed = {"space.yaml", "crnn_search/tuning/worker.py", "crnn_search/kernels/c/gru.c"}
    assert needed <= client.files
    assert not any("__pycache__" in name for name in client.files)
    assert "launch" in client.printed
    assert not client.logged
    assert UPLOADS.level == level
    assert LIBRARY.level == library_level


def test_job_has_the_files_of_its_data_set(client: FakeClient, tmp_path: Path) -> None:
    path = tmp_path / "0.png"
    path.touch()
    names = {"data/clips/metadata.csv": path, "data/clips/sub/0.png": path}
    Cluster(ADDRESS).submit(["launch", "space.yaml"], "/shared/demo", "space: {}", names)
    assert {*names, "space.yaml"} <= client.files
    with pytest.raises(InputError, match=r"cannot copy .*/gone for the job: No such file or dire"):
        Cluster(ADDRESS).submit([], "/shared/demo", "", {"data/gone": tmp_path / "gone"})


def test_only_jobs_of_this_package_are_listed_the_oldest_first(client: FakeClient) -> None:
    client.jobs = [
        details("second", "/runs/demo", 200, "SUCCEEDED"),
        details("other", None, 50),
        details("first", "/runs/demo", 100),
        details("waiting", "/runs/new", None, "PENDING"),
    ]
    cluster = Cluster(ADDRESS)
    assert [job.id for job in cluster.jobs()] == ["waiting", "first", "second"]
    assert cluster.job("first") == Submitted("first", "RUNNING", "/runs/demo", 100)
    newest = cluster.job("/runs/demo/")
    assert (newest.id, newest.ended) == ("second", True)
    with pytest.raises(InputError, match=r"no job or run 'x'; .* waiting, first, second"):
        cluster.job("x")
    assert cluster.log(newest) == "output of second"


def test_cluster_without_jobs_says_so(client: FakeClient) -> None:
    with pytest.raises(InputError, match=r"its jobs of this package: none$"):
        Cluster(ADDRESS).job("x")


def test_job_that_does_not_stop_is_reported(
    client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.jobs = [details("demo-1", "/runs/demo", 1)]
    monkeypatch.setattr(jobs, "STOP_WAIT_S", -31)
    cluster = Cluster(ADDRESS)
    with pytest.raises(RunError, match="demo-1 has not stopped within -1 s: it is running"):
        cluster.stop(cluster.job("demo-1"))


def test_stopped_job_is_returned(client: FakeClient) -> None:
    client.jobs = [details("demo-1", "/runs/demo", 1, "STOPPED")]
    cluster = Cluster(ADDRESS)
    assert cluster.stop(cluster.job("demo-1")).status == "STOPPED"
