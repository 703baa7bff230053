"""Connect to a Ray cluster, or start a local one."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray

import crnn_search
from crnn_search import signals
from crnn_search.cluster import settings
from crnn_search.cluster.address import find
from crnn_search.cluster.auth_token import ensure_local, warn_if_readable
from crnn_search.cluster.cores import usable_cores
from crnn_search.cluster.provenance import JOB_VARIABLE
from crnn_search.errors import InputError
from crnn_search.text import first_line

LOCAL_OBJECT_STORE_BYTES = 256 * 2**20

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def connect(
    address: str | None, on_note: Callable[[str], None] = logger.warning, *, verbose: bool = False
) -> Iterator[None]:
    """Connect to the cluster at `address`, or start a local one; disconnect at the end.

    A local one listens on the loopback address only, unless the program has imported Ray before it
    had `settings`. Trials run the package of this process, and import nothing from the current
    folder.

    on_note: called with messages for the user.

    Raises:
        InputError: nothing answers at the address, or Ray does not start.
    """
    settings.apply()
    options: dict[str, Any] = {"configure_logging": False, "log_to_driver": verbose}
    with _package_folder() as folder:
        if address:
            options["address"] = find(address)
            warn_if_readable(on_note)
            if JOB_VARIABLE not in os.environ:  # a job has brought this package along
                options["runtime_env"] = {"py_modules": [crnn_search]}
        else:
            ensure_local(on_note)
            _ensure_temporary_folder(folder)
            options |= {"address": "local", "include_dashboard": False, "num_cpus": usable_cores()}
            options["object_store_memory"] = LOCAL_OBJECT_STORE_BYTES
        try:
            _init(folder, options)
        except Exception as error:  # Ray raises a bare Exception, too
            what = f"connect to a Ray cluster at {address!r}" if address else "start Ray"
            raise InputError(f"cannot {what}: {first_line(error)}") from error
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def _package_folder() -> Iterator[Path]:
    """A temporary folder with a link to this package and nothing else."""
    try:
        created = tempfile.TemporaryDirectory(prefix="crnn-search-", ignore_cleanup_errors=True)
    except OSError as error:
        raise InputError(
            f"no folder for temporary files can be written: {error.strerror}; name one in TMPDIR"
        ) from error
    with created as name:
        folder = Path(name)
        (folder / "crnn_search").symlink_to(Path(crnn_search.__file__).parent.resolve())
        yield folder


def _ensure_temporary_folder(folder: Path) -> None:
    """Let a local Ray use this folder for its files where it cannot write to its usual one."""
    usual = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")  # noqa: S108
    own = usual / "ray"
    if not os.access(own if own.exists() else usual, os.W_OK | os.X_OK):
        os.environ["RAY_TMPDIR"] = str(folder)


def _init(folder: Path, options: dict[str, Any]) -> None:
    """Initialize Ray, whose workers import from `folder` what the current folder would give them.

    Ray adds the current folder and that of the running script to its workers' search path.
    """
    script, path = "", sys.path[:]
    with contextlib.suppress(FileNotFoundError):  # the current folder was deleted
        script = str(Path(sys.argv[0]).resolve().parent)
    with (
        _current_folder(folder),
        signals.kept(signal.SIGTERM),
        _blocked(signal.SIGHUP),  # in the processes that Ray starts: it is for the driver
    ):
        sys.path[:] = [entry for entry in path if entry != script]
        try:
            ray.init(**options)
        except SystemExit:  # by Ray's own handler of SIGTERM
            raise KeyboardInterrupt from None
        finally:
            sys.path[:] = path


@contextlib.contextmanager
def _current_folder(folder: Path) -> Iterator[None]:
    """Make a folder the current one; then the former one again, even if it was deleted."""
    before = os.open(".", os.O_DIRECTORY | getattr(os, "O_PATH", os.O_RDONLY))
    try:
        os.chdir(folder)
        yield
    finally:
        os.fchdir(before)
        os.close(before)


@contextlib.contextmanager
def _blocked(number: signal.Signals) -> Iterator[None]:
    """Block a signal in this thread and in the processes that it starts."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
