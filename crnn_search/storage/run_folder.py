"""The name of every file of a run, and of the cache."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from crnn_search.errors import InputError, RunFolderError, StorageError
from crnn_search.storage.files import read_json
from crnn_search.storage.mirror import Mirror
from crnn_search.storage.object_store import READ_PATIENCE_S, ObjectStore, is_uri, join


@dataclass(frozen=True)
class RunPaths:
    """The folder of one run and the names of all that is in it.

    mirror: keeps the folder in step with an object store, if the run lives in one; the checkpoints
    then lie in the store alone.
    """

    root: Path
    mirror: Mirror | None = None

    @property
    def location(self) -> str:
        """Where the run lives, as a user names it: a folder or a URI."""
        return self.mirror.uri if self.mirror else str(self.root)

    @property
    def checkpoint_location(self) -> str:
        """The folder or URI of all jobs' checkpoints, as every node finds it."""
        if self.mirror:
            return join(self.mirror.uri, self.checkpoints.name)
        return str(self.checkpoints.absolute())

    def place(self, path: Path) -> str:
        """Where a file of the run lives, as a user names it."""
        return join(self.location, str(path.relative_to(self.root)))

    def push(self) -> None:
        """Let the object store, if there is one, have all files as they are now.

        Raises:
            StorageError: it cannot be reached.
        """
        if self.mirror:
            self.mirror.push()

    def file(self, relative: str) -> Path:
        """A file of the run, brought from the object store if it is only there."""
        path = self.root / relative
        if self.mirror and not path.exists():
            self.mirror.store.fetch(relative, path)
        return path

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def space(self) -> Path:
        return self.root / "space.yaml"

    @property
    def ledger(self) -> Path:
        return self.root / "trials.jsonl"

    @property
    def journal(self) -> Path:
        return self.root / "journal.jsonl"

    @property
    def warm_start(self) -> Path:
        """Trials of earlier runs that the sampler knows from the start."""
        return self.root / "warm_start.jsonl"

    @property
    def checkpoints(self) -> Path:
        """States of trainings, a folder for each job."""
        return self.root / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def study(self) -> Path:
        return self.root / "study.db"

    @property
    def finalists(self) -> Path:
        return self.root / "finalists.json"

    @property
    def best(self) -> Path:
        return self.root / "best.json"

    @property
    def retrained(self) -> Path:
        return self.root / "retrained.json"

    @property
    def retrained_models(self) -> Path:
        return self.root / "retrained"

    def is_retrained(self) -> bool:
        """Whether the retrained models are there, all of them."""
        if not self.retrained.is_file():
            return False
        entries = [
            e for part in read_json(self.retrained).values() if type(part) is list for e in part
        ]
        return all((self.root / entry["file"]).is_file() for entry in entries)

    @property
    def report_json(self) -> Path:
        return self.root / "report.json"

    @property
    def report_markdown(self) -> Path:
        return self.root / "report.md"

    @property
    def report_html(self) -> Path:
        return self.root / "report.html"

    @property
    def plots(self) -> Path:
        return self.root / "plots"

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def stop(self) -> Path:
        """A file whose presence asks the process that works on the run to stop."""
        return self.root / "stop"

    @property
    def log(self) -> Path:
        """What Ray and the libraries had to say, kept out of the terminal."""
        return self.root / "search.log"


def create_run(storage: str, name: str) -> RunPaths:
    """Make the place of a new run. storage: a folder or the URI of an object store.

    Raises:
        RunFolderError: the name is no folder name, the run exists or cannot be written.
    """
    if not name or name in {".", ".."} or name != Path(name).name:
        raise RunFolderError(f"a run's name must be a plain folder name, got {name!r}")
    if is_uri(storage):
        return _create_in_store(storage, name)
    folder = Path(storage)
    run = RunPaths(folder / name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        run.root.mkdir()
    except FileExistsError as error:
        if run.root.is_dir():
            raise RunFolderError(_exists(name, storage, str(run.root))) from error
        raise RunFolderError(f"cannot make the folder {run.root}: {error}") from error
    except OSError as error:
        raise RunFolderError(
            f"cannot write to {storage}: {error.strerror}; choose another folder with --storage"
        ) from error
    return run


def open_run(place: str) -> RunPaths:
    """The run in an existing folder, or at a URI.

    Raises:
        RunFolderError: there is no run in it.
    """
    run = _mirrored(place) if is_uri(place) else RunPaths(Path(place))
    if run.mirror:
        try:
            run.mirror.store.names(run.space.name, READ_PATIENCE_S)
            run.mirror.pull()
        except StorageError as error:
            raise RunFolderError(f"cannot read {place}: {error}") from error
    if not run.space.is_file():
        raise RunFolderError(
            f"{place} is not the folder of a run: it has no {run.space.name}; give a folder "
            "that crnn-search launch made, such as runs/NAME"
        )
    return run


def remove_run(run: RunPaths) -> None:
    """Remove all of a run."""
    shutil.rmtree(run.root)
    if run.mirror:
        run.mirror.remove()


def runs(storage: str) -> list[str]:
    """The places of the runs in a folder or at a URI, in order.

    Raises:
        InputError: there is no such folder, or it cannot be read.
    """
    if is_uri(storage):
        try:
            held = ObjectStore(storage).folders(holding=RunPaths(Path()).space.name)
            return [join(storage, name) for name in held]
        except StorageError as error:
            raise InputError(f"cannot read {storage}: {error}") from error
    folder = Path(storage)
    if not folder.is_dir():
        raise InputError(f"there is no folder {storage}; name one that holds runs with --storage")
    found = [RunPaths(path) for path in sorted(folder.iterdir())]
    return [str(run.root) for run in found if run.space.is_file()]


def _exists(name: str, storage: str, place: str) -> str:
    return (
        f"a run called {name!r} exists in {storage}; choose another with --name, or remove {place}"
    )


def _create_in_store(storage: str, name: str) -> RunPaths:
    run = _mirrored(join(storage, name))
    assert run.mirror
    store = run.mirror.store
    try:
        if store.names(patience_s=0):
            raise RunFolderError(_exists(name, storage, run.location))
        store.write("lease.json", b"{}", patience_s=0)
    except StorageError as error:
        raise RunFolderError(f"cannot write to {storage}: {error}") from error
    run.root.mkdir()
    return run


def _mirrored(uri: str) -> RunPaths:
    """A run at a URI, with a local folder of this process alone, removed at its end."""
    folder = tempfile.mkdtemp(prefix="crnn-search-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = uri.partition("?")[0].rstrip("/")
    root = Path(folder) / path.rpartition("/")[2]
    return RunPaths(root, Mirror(uri, root))


def check_owner(run: RunPaths) -> None:
    """See that a run is this user's own: what stands in its files decides what is trained.

    Raises:
        RunFolderError: another user made its folder or one of the files that are read.
    """
    user = os.geteuid()
    for path in (run.root, run.space, run.manifest, run.journal, run.ledger, run.checkpoints):
        if path.exists() and path.stat().st_uid != user:
            raise RunFolderError(
                f"{path} belongs to user {path.stat().st_uid}, not to you, user {user}, and what "
                "stands in it would be trusted; if you do trust it, add --force"
            )
