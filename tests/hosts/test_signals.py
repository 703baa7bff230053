"""A signal ends the test of hosts with nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from crnn_search.data import mnist
from crnn_search.storage.cache import cache_folder
from tests.hosts import __main__ as hosts
from tests.small_run import REPOSITORY
from tests.waiting import wait

pytestmark = pytest.mark.slow

MOMENTS: dict[str, Callable[[Path], bool]] = {
    "before there are hosts": lambda folder: True,
    "while hosts start": lambda folder: (folder / "head/sshd_config").exists(),
    "while Ray starts": lambda folder: (folder / "head/tmp/ray").exists(),
}


@pytest.fixture(autouse=True)
def _possible() -> None:
    """Skip where there can be no hosts, or they would have to wait for a download."""
    if problem := hosts._problem():
        pytest.skip(problem)
    if not all((cache_folder() / "mnist" / name).exists() for name in mnist.FILES):
        pytest.skip("MNIST is not in the cache")


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_test_with_nothing_left_behind(
    number: signal.Signals, moment: str, tmp_path: Path
) -> None:
    process = started_in_the_background(tmp_path / "log")
    try:
        wait(lambda: "files: " in printed(tmp_path), 60, lambda: printed(tmp_path))
        folder = Path(printed(tmp_path).split("files: ")[1].splitlines()[0])
        wait(lambda: MOMENTS[moment](folder), 120, lambda: printed(tmp_path))
        namespaces = namespaces_below(process.pid)
        process.send_signal(number)
        time.sleep(0.2)
        process.send_signal(number)  # as an impatient user does
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait(60)
    assert printed(tmp_path).endswith("cluster-test: interrupted\nleft behind: nothing\n")
    assert not folder.exists()
    # The kernel is ending them, which takes long on a busy machine.
    wait(lambda: not left_in(namespaces), 60, lambda: f"left: {left_in(namespaces)}")


def started_in_the_background(log: Path) -> subprocess.Popen[bytes]:
    """`make cluster-test`, begun as a script begins `COMMAND &`: SIGINT is ignored."""
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.hosts", "--short"],
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=REPOSITORY,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        )


def printed(folder: Path) -> str:
    return (folder / "log").read_text()


def left_in(namespaces: set[str]) -> list[str]:
    """The command lines of processes there."""
    return [command_of(pid) for pid in processes() if namespaces_of(pid) & namespaces]


def command_of(pid: int) -> str:
    try:
        return f"{pid} {Path(f'/proc/{pid}/cmdline').read_text()}".replace("\0", " ")
    except OSError:
        return f"{pid}, which has ended"


def processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def namespaces_below(pid: int) -> set[str]:
    """The namespaces of a process's descendants that are not this process's."""
    below = {pid}
    while found := {child for child in processes() if parent(child) in below} - below:
        below |= found
    return set().union(*map(namespaces_of, below)) - namespaces_of(os.getpid())


def namespaces_of(pid: int) -> set[str]:
    try:
        return {str(path.readlink()) for path in Path(f"/proc/{pid}/ns").iterdir()}
    except OSError:  # it has ended
        return set()


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
