"""Temporary files and folders: what a process that was killed leaves, a later one removes."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from crnn_search.storage import file_lock

PREFIX = "crnn-search-"
"""Of the name of each folder in the system's folder of temporary files."""

SETTLED_S = 60.0
"""A folder that is younger may not have been locked yet."""

_LOCK = ".lock"
_handles: dict[Path, int] = {}

_UNFINISHED = re.compile(
    r"\.(.+\.(json|jsonl|yaml|md|html|png|npz|safetensors|onnx|db)\.|export-|seen-)[a-z0-9_]{8}"
)
"""What `atomic_write` and an export call a file or folder that is not complete."""


def create_folder() -> Path:
    """A new temporary folder, which is removed when this process exits."""
    path = Path(tempfile.mkdtemp(prefix=PREFIX))
    handle = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    with contextlib.suppress(OSError):  # a file system without locks
        file_lock.lock(handle)
    _handles[path] = handle
    atexit.register(_remove, path)
    return path


def hand_over() -> None:
    """Keep this process's folders for the program that takes its place, by `os.exec`.

    A later process removes them, once that program has ended.
    """
    for handle in _handles.values():
        os.set_inheritable(handle, True)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A new temporary folder, which is removed at the end of the block."""
    path = create_folder()
    try:
        yield path
    finally:
        _remove(path)


def remove_dead_folders() -> None:
    """Remove the temporary folders of this user whose processes have ended without doing it."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            stat = path.stat()
            settled = time.time() - stat.st_mtime > SETTLED_S
            if settled and stat.st_uid == os.geteuid() and not _is_locked(path / _LOCK):
                shutil.rmtree(path, ignore_errors=True)


def remove_unfinished(root: Path) -> None:
    """Remove all files below a run's folder that were never completed.

    The caller holds the run's lease: no other process writes them.
    """
    for folder, folders, files in os.walk(root):
        for name in filter(_UNFINISHED.fullmatch, (*folders, *files)):
            path = Path(folder) / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink()


def _is_locked(path: Path) -> bool:
    """Whether a process has a folder. Raises OSError if that cannot be known."""
    handle = os.open(path, os.O_RDONLY)
    try:
        return file_lock.is_locked(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    if (handle := _handles.pop(path, None)) is not None:
        os.close(handle)
