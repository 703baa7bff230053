"""Create, open, list and remove runs, in a folder or in an object store."""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
import shutil
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from crnn_search.errors import InputError, RunFolderError, StorageError
from crnn_search.storage import stages, temporary
from crnn_search.storage.location import is_uri, join, local_path
from crnn_search.storage.mirror import Mirror
from crnn_search.storage.object_store import ChangedError, ObjectStore
from crnn_search.storage.retry import READ_RETRY_FOR_S
from crnn_search.storage.run_folder import LEASE, SPACE, RunFolder
from crnn_search.storage.store_lease import FREE
from crnn_search.storage.store_uri import NOT_IN_A_URI
from crnn_search.text import shown

DEFAULT_STORAGE = "runs"
"""The folder of runs where none is named."""

MAX_NAME_BYTES = 255

THREADS = 16
"""Runs of an object store that are read at a time."""


def default_name(stem: str) -> str:
    """The name of a run that was given none: what is searched, the time, and a random number.

    Runs that start in the same second, here or on other machines, differ by the last.
    """
    return f"{stem}-{datetime.datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def check_run_name(name: str, storage: str = DEFAULT_STORAGE) -> None:
    """Check the name of a new run in a folder of runs, or at the URI of one.

    Raises:
        RunFolderError: it is not a plain folder name, or not one that a URI can hold as it is.
    """
    if not name or name in {".", ".."} or name != Path(name).name or not name.isprintable():
        raise RunFolderError(
            f"a run's name must be a plain folder name, got {shown(name)}; choose another with "
            "--name"
        )
    if len(name.encode()) > MAX_NAME_BYTES:
        raise RunFolderError(
            f"a run's name must have at most {MAX_NAME_BYTES} bytes, got {shown(name)}"
        )
    if is_uri(storage) and (found := sorted(NOT_IN_A_URI & set(name))):
        raise RunFolderError(
            f"the name of a run in an object store must be one without {' '.join(found)}, got "
            f"{shown(name)}; choose another with --name"
        )


def create_run(storage: str, name: str) -> RunFolder:
    """Create the folder of a new run. storage: a folder of runs, or the URI of one.

    Raises:
        InputError: the storage is no folder and no URI.
        RunFolderError: the name is not a folder name, the run exists or cannot be written.
    """
    check_run_name(name, storage)
    if is_uri(storage):
        return _create_in_store(storage, name)
    run = RunFolder(local_path(storage) / name)
    try:
        run.root.parent.mkdir(parents=True, exist_ok=True)
        run.root.mkdir()
    except FileExistsError as error:
        if run.root.is_dir():
            raise _exists(name, storage, run.location) from error
        raise RunFolderError(f"cannot create the folder {run.root}: {error.strerror}") from error
    except OSError as error:
        raise RunFolderError(
            f"cannot write to {storage}: {error.strerror}; choose another folder with --storage"
        ) from error
    return run


def open_run(location: str, wanted: Collection[str] | None = None) -> RunFolder:
    """The run in an existing folder, at a URI, or of this name in the folder `runs`.

    wanted: files and folders to fetch from an object store; by default all but checkpoints. The
    space is always fetched.

    Raises:
        RunFolderError: there is no run, or it cannot be read.
    """
    run = _opened(location, wanted)
    if not _is_run(run) and not is_uri(location) and location == Path(location).name:
        run = RunFolder(Path(DEFAULT_STORAGE) / location)
    if not _is_run(run):
        raise RunFolderError(
            f"{location} is not the folder of a run: it has no {SPACE}; give a folder that "
            "crnn-search launch created, such as runs/NAME"
        )
    return run


def newest_run() -> RunFolder:
    """The run in the folder `runs` that was worked on last.

    Raises:
        InputError: there is none.
    """
    found = list_runs(DEFAULT_STORAGE)
    if not found:
        raise InputError(f"there is no run in the folder {DEFAULT_STORAGE}; name one")
    return max(found, key=_last_change)


def _last_change(run: RunFolder) -> float:
    times = [0.0]
    for path in (run.space, run.journal):
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)


def list_runs(storage: str, wanted: Collection[str] = ()) -> list[RunFolder]:
    """The runs in a folder or at a URI, sorted by name; `wanted` as in `open_run`.

    Raises:
        InputError: there is no such folder, or it cannot be read.
    """
    if is_uri(storage):
        try:
            store = ObjectStore(storage, retry_for_s=READ_RETRY_FOR_S)
            locations = [join(storage, name) for name in store.folders()]
        except StorageError as error:
            raise InputError(f"cannot read {storage}: {error.reason}") from error
        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(lambda location: _opened(location, wanted), locations))
    else:
        folder = local_path(storage)
        if not folder.is_dir():
            raise InputError(
                f"there is no folder {storage}; name the folder of runs with --storage"
            )
        try:
            found = [RunFolder(path) for path in sorted(folder.iterdir())]
        except OSError as error:
            raise InputError(f"cannot read {storage}: {error.strerror}") from error
    return [run for run in found if _may_be_run(run)]


def remove_run(run: RunFolder) -> None:
    """Remove all files of a run, as far as they can be."""
    shutil.rmtree(run.root, ignore_errors=True)
    if run.mirror:
        with contextlib.suppress(StorageError):
            run.mirror.remove()


def check_owner(run: RunFolder) -> None:
    """Check that a run is this user's own: its files decide what is trained.

    Raises:
        RunFolderError: another user owns its folder or one of the files that are read, or one
            cannot be read.
    """
    user = os.geteuid()
    paths = [run.root, run.space, run.manifest, run.journal, run.ledger, run.warm_start]
    paths += [run.finalists, run.best, run.retrained, run.stages, run.report_json]
    for folder in (run.checkpoints, run.retrained_models):
        paths += [folder, *folder.rglob("*")]
    for path in paths:
        try:
            owner = path.stat().st_uid
        except FileNotFoundError:
            continue
        except OSError as error:
            raise RunFolderError(f"cannot read {path}: {error.strerror}") from error
        if owner != user:
            raise RunFolderError(
                f"{path} belongs to user {owner}, not to you, user {user}, and its "
                "contents would be trusted; if you do trust them, add --force"
            )


def is_retrained(run: RunFolder) -> bool:
    """Whether winner and retraining are as they were when they were done.

    Raises:
        InputError: `stages.json` cannot be read.
    """
    return stages.first_open(run) not in {stages.FINALISTS, stages.RETRAIN}


def _is_run(run: RunFolder) -> bool:
    """Whether there is a run. Raises RunFolderError if that cannot be seen."""
    try:
        return run.space.is_file()
    except OSError as error:
        raise RunFolderError(f"cannot read {run.space}: {error.strerror}") from error


def _may_be_run(run: RunFolder) -> bool:
    """Whether a folder is a run, or cannot be read."""
    try:
        return run.space.is_file()
    except OSError:
        return True


def _exists(name: str, storage: str, location: str) -> RunFolderError:
    return RunFolderError(
        f"a run called {shown(name)} exists in {storage}; choose another with --name, or remove "
        f"{location}"
    )


def _create_in_store(storage: str, name: str) -> RunFolder:
    run = _mirrored(join(storage, name))
    assert run.mirror
    store = run.mirror.store
    try:
        if store.names():
            raise _exists(name, storage, run.location)
        store.replace(LEASE, FREE, None)
    except ChangedError as error:
        raise _exists(name, storage, run.location) from error
    except StorageError as error:
        raise RunFolderError(
            f"cannot use {storage}: {error.reason}; choose another storage with --storage"
        ) from error
    run.root.mkdir()
    return run


def _opened(location: str, wanted: Collection[str] | None) -> RunFolder:
    """The run at a location, with what is wanted and its space; it may have none."""
    if not is_uri(location):
        return RunFolder(local_path(location))
    run = _mirrored(location)
    assert run.mirror
    try:
        run.mirror.pull(None if wanted is None else {SPACE, *wanted})
    except StorageError as error:
        raise RunFolderError(f"cannot read {location}: {error.reason}") from error
    return run


def _mirrored(uri: str) -> RunFolder:
    """A run at a URI, with a temporary local folder that is removed when this process exits."""
    folder = temporary.create_folder()
    path = uri.partition("?")[0].rstrip("/")
    root = folder / path.rpartition("/")[2]
    return RunFolder(root, Mirror(uri, root))
