from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import ray

from crnn_search.cluster import connection
from crnn_search.errors import InputError
from tests.small_run import REPOSITORY

PROGRAM = """
import resource
from crnn_search.cluster import settings
settings.apply()  # as every command does, before Ray is imported
import ray, torch
from crnn_search.cluster import connection
from tests.cluster import listening

def faults():
    for _ in range(20):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with connection.connect(None):
    print(faults(), ray.get(ray.remote(faults).remote()))
    print(*listening.addresses())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_processes_of_a_local_ray_keep_freed_memory_and_listen_on_loopback_only() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": REPOSITORY},
    )
    found, addresses = done.stdout.splitlines()[-2:]
    here, there = map(int, found.split())
    assert there < here / 10
    assert set(addresses.split()) == {"127.0.0.1"}


class FakeRay:
    """What `ray.init` is called with, and where; raises an error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: BaseException | None = None) -> None:
        self.error = error
        self.options: dict[str, Any] = {}
        self.stopped = 0
        monkeypatch.setenv("RAY_AUTH_TOKEN", "a" * 64)
        monkeypatch.setattr(ray, "init", self.init)
        monkeypatch.setattr(ray, "shutdown", self.shutdown)

    def init(self, **options: Any) -> None:
        self.options = options
        self.folder = Path.cwd()
        self.files = {path.name: path.resolve() for path in self.folder.iterdir()}
        self.path = sys.path[:]
        self.blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))
        if self.error:
            raise self.error

    def shutdown(self) -> None:
        self.stopped += 1


def test_local_ray_is_started_in_a_folder_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = FakeRay(monkeypatch)
    script = tmp_path / "search.py"
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = Path.cwd(), sys.path[:], signal.getsignal(signal.SIGTERM)
    with connection.connect(None, pytest.fail):
        assert fake.files == {"crnn_search": Path(connection.__file__).parents[1]}
        assert str(tmp_path) not in fake.path
        assert fake.blocked == {signal.SIGHUP}
        assert (Path.cwd(), sys.path, signal.getsignal(signal.SIGTERM)) == before
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert (fake.options["address"], fake.stopped) == ("local", 1)
    assert not fake.folder.exists()


def test_ray_starts_where_the_current_folder_was_deleted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = FakeRay(monkeypatch)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with connection.connect(None, pytest.fail):
        assert "crnn_search" in fake.files


@pytest.mark.parametrize(
    "error", [Exception("The node timed out.\nMore"), PermissionError(13, "no"), ValueError("no")]
)
def test_ray_that_does_not_start_is_one_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    FakeRay(monkeypatch, error)
    with (
        pytest.raises(InputError, match=r"^cannot start Ray: .*(out\.|no)$"),
        connection.connect(None, pytest.fail),
    ):
        pass


def test_rays_own_handler_of_sigterm_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeRay(monkeypatch, SystemExit(15))
    before = Path.cwd()
    with pytest.raises(KeyboardInterrupt, match=r"^$"), connection.connect(None, pytest.fail):
        pass
    assert Path.cwd() == before


def test_cluster_gets_the_drivers_package(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay(monkeypatch)
    monkeypatch.setattr(connection, "find", lambda address: f"{address}:6379")
    with connection.connect("head", pytest.fail):
        assert fake.options["address"] == "head:6379"
    (package,) = fake.options["runtime_env"]["py_modules"]
    assert package.__name__ == "crnn_search"
    monkeypatch.setenv("CRNN_SEARCH_JOB", "demo-1")
    with connection.connect("head", pytest.fail):
        assert "runtime_env" not in fake.options


def test_ray_gets_a_temporary_folder_that_can_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = FakeRay(monkeypatch)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with connection.connect(None, pytest.fail):
        assert os.environ["RAY_TMPDIR"] == str(tmp_path)
    monkeypatch.setenv("RAY_TMPDIR", "/dev/null")
    with connection.connect(None, pytest.fail):
        assert os.environ["RAY_TMPDIR"] == str(fake.folder)
    monkeypatch.setattr(tempfile, "tempdir", "/dev/null")
    with (
        pytest.raises(InputError, match="no folder for temporary files can be written: Not a dir"),
        connection.connect(None, pytest.fail),
    ):
        pass
