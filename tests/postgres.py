"""A PostgreSQL server of a test, in a temporary folder, on a Unix socket."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.waiting import wait

USER = "searcher"


def _program(name: str) -> str | None:
    """A program of Debian's package, which is not on the path."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(places[-1]) if places else shutil.which(name)


needs_postgres = pytest.mark.skipif(
    _program("initdb") is None, reason="needs PostgreSQL: apt-get install postgresql"
)


class Postgres:
    """A server that can be killed and started again. folder: belongs to its user."""

    def __init__(self, folder: Path, user: str | None) -> None:
        self._folder, self._user = folder, user
        self._process: subprocess.Popen[bytes] | None = None
        words = [*self._words("initdb"), "-U", USER, "--auth=trust", "--no-sync", "-E", "UTF8"]
        words += ["--locale=C"]
        subprocess.run(words, user=user, check=True, capture_output=True, cwd=folder)

    @property
    def url(self) -> str:
        """For Optuna, without a driver."""
        return f"postgresql://{USER}@/postgres?host={self._folder}"

    @property
    def full_url(self) -> str:
        """For Optuna."""
        return self.url.replace("://", "+psycopg://")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        words = [*self._words("postgres"), "-k", str(self._folder), "-c", "listen_addresses="]
        self._process = subprocess.Popen(
            words, user=self._user, cwd=self._folder, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait(self._answers, 60, "PostgreSQL does not answer")

    def kill(self) -> None:
        """End all of it at once."""
        if self._process:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(30)

    def _words(self, program: str) -> list[str]:
        return [str(_program(program)), "-D", str(self._folder / "data")]

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url).close()
        except psycopg.OperationalError:
            return False
        return True


@contextlib.contextmanager
def server() -> Iterator[Postgres]:
    """A server, not started yet. As root it runs as another user: PostgreSQL refuses root."""
    user = None
    if os.geteuid() == 0:
        names = {entry.pw_name for entry in pwd.getpwall()}
        user = "postgres" if "postgres" in names else "nobody"
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if user:
            shutil.chown(folder, user)
        found = Postgres(folder, user)
        try:
            yield found
        finally:
            with contextlib.suppress(ProcessLookupError):
                found.kill()
