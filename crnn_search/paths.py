"""The name of every file of a run, and of the cache."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from crnn_search.errors import InputError, RunFolderError

CACHE_VARIABLE = "CRNN_SEARCH_CACHE"
"""Environment variable that puts the cache into another folder."""


def cache_folder() -> Path:
    """Where MNIST is kept between runs."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else Path(platformdirs.user_cache_dir("crnn-search"))


@dataclass(frozen=True)
class RunPaths:
    """The folder of one run and the names of all that is in it."""

    root: Path

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
    def log(self) -> Path:
        """What Ray and the libraries had to say, kept out of the terminal."""
        return self.root / "search.log"


@dataclass(frozen=True)
class ModelPaths:
    """A folder with an exported model."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def safetensors(self) -> Path:
        return self.root / "model.safetensors"

    @property
    def onnx(self) -> Path:
        return self.root / "model.onnx"

    @property
    def pt2(self) -> Path:
        return self.root / "model.pt2"

    @property
    def readme(self) -> Path:
        return self.root / "README.md"


def create_run(storage: Path, name: str) -> RunPaths:
    """Make the folder of a new run.

    Raises:
        RunFolderError: the name is no folder name, the run exists or cannot be written.
    """
    if not name or name in {".", ".."} or name != Path(name).name:
        raise RunFolderError(f"a run's name must be a plain folder name, got {name!r}")
    run = RunPaths(storage / name)
    try:
        storage.mkdir(parents=True, exist_ok=True)
        run.root.mkdir()
    except FileExistsError as error:
        if run.root.is_dir():
            raise RunFolderError(
                f"a run called {name!r} exists in {storage}; choose another with --name, or remove "
                f"{run.root}"
            ) from error
        raise RunFolderError(f"cannot make the folder {run.root}: {error}") from error
    except OSError as error:
        raise RunFolderError(
            f"cannot write to {storage}: {error.strerror}; choose another folder with --storage"
        ) from error
    return run


def open_run(folder: Path) -> RunPaths:
    """The run in an existing folder.

    Raises:
        RunFolderError: there is no run in it.
    """
    run = RunPaths(folder)
    if not run.space.is_file():
        raise RunFolderError(
            f"{folder} is not the folder of a run: it has no {run.space.name}; give a folder "
            "that crnn-search launch made, such as runs/NAME"
        )
    return run


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


@contextlib.contextmanager
def whole_or_absent(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`; flushed to the disk and renamed if nothing is raised."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with whole_or_absent(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all. Numbers that are none are refused."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: it cannot be read or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
