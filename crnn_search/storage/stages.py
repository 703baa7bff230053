"""`stages.json`: which stages of a run are done, and what their files were then.

A stage that has written its last file records the size and SHA-256 of all of them. It is done as
long as they are as recorded: a stage that a crash left before its end, and one whose files were
removed, cut or altered since, is done again by `resume`. Those files follow from the journal and
the checkpoints. What does not is recorded when the run is finished, and has to stay as it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from crnn_search.errors import InputError
from crnn_search.storage.checks import ALTERED, check_bounds, check_types
from crnn_search.storage.files import read_json, write_json
from crnn_search.storage.run_folder import APPENDED, JOURNAL, RunFolder

FINALISTS, RETRAIN, REPORT, EXPORT = "finalists", "retrain", "report", "export"
FINISHED = "finished"

ORDER = (FINALISTS, RETRAIN, REPORT, EXPORT, FINISHED)
"""The stages in order. `FINISHED` has the files that no stage can write again."""

Files = dict[str, dict[str, Any]]
"""Size, `bytes`, and `sha256` of files by name. Of files that grow, both are of their beginning."""


def record(run: RunFolder, stage: str, paths: Iterable[Path], *, add: bool = False) -> None:
    """Record that a stage is done: all its files are written.

    add: keep what is recorded of other files of the stage.

    Raises:
        InputError: `stages.json` cannot be read.
    """
    known = _read(run)
    files = {path.relative_to(run.root).as_posix(): _entry(path) for path in paths}
    known[stage] = (known.get(stage, {}) if add else {}) | files
    write_json(run.stages, known)


def reopen(run: RunFolder, stage: str) -> None:
    """Forget that a stage and all after it were done. Raises as `record`."""
    known = _read(run)
    kept = {name: known[name] for name in ORDER[: ORDER.index(stage)] if name in known}
    if kept != known:
        with run.changes():
            write_json(run.stages, kept)


def first_open(run: RunFolder, *, contents: bool = True) -> str | None:
    """The first stage that is not done; None if the run is finished.

    contents: look at the content of the run's local files, not at their size only.

    Raises:
        InputError: `stages.json` cannot be read, or a file that no stage can write again is not as
            the finished run had left it.
    """
    known = _read(run)
    if altered := _altered(run, known.get(FINISHED, {}), contents=contents):
        raise InputError(
            f"{', '.join(run.location_of(run.root / name) for name in altered)} of a finished run "
            f"was removed, cut or altered: restore it from a copy. Or remove "
            f"{run.location_of(run.stages)}, and crnn-search resume makes up what is lost"
        )
    for stage in ORDER:
        if stage not in known or _altered(run, known[stage], contents=contents):
            return stage
    return None


def has_grown(run: RunFolder) -> bool:
    """Whether a finished run's journal has more lines than it ended with: it is being extended."""
    entry, size = _read(run).get(FINISHED, {}).get(JOURNAL), run.size(run.journal)
    return entry is not None and size is not None and bool(size > entry["bytes"])


def damaged(run: RunFolder, *, contents: bool = True) -> list[str]:
    """The recorded files that are missing or not as they were. Arguments as of `first_open`."""
    return [
        name for files in _read(run).values() for name in _altered(run, files, contents=contents)
    ]


def check(run: RunFolder, *stages: str) -> None:
    """Check that stages are done, so that their files can be trusted.

    Raises:
        InputError: one is not; names its files that are missing or not as they were.
    """
    known = _read(run)
    for stage in stages:
        if stage not in known:
            raise InputError(
                f"{run.location} has not finished its stage {stage}: continue it with "
                f"crnn-search resume"
            )
        if altered := _altered(run, known[stage], contents=True):
            names = ", ".join(run.location_of(run.root / name) for name in altered)
            raise InputError(
                f"{names} was removed, cut or altered since this run wrote it: restore it from a "
                "copy, or let crnn-search resume write it again"
            )


def is_recorded(run: RunFolder, stage: str, path: Path) -> bool:
    """Whether a stage is done, and one of its files is as it was then.

    Raises:
        InputError: `stages.json` or the file cannot be read.
    """
    name, files = path.relative_to(run.root).as_posix(), _read(run).get(stage, {})
    return name in files and _is_as(run, name, files[name], contents=True)


def _read(run: RunFolder) -> dict[str, Files]:
    """What is recorded, by stage; empty if nothing is."""
    if not run.stages.exists():
        return {}
    values = read_json(run.stages)
    try:
        for stage, files in values.items():
            if stage not in ORDER:
                raise ValueError(f"unknown stage {stage!r:.200}")
            for name, entry in files.items():
                _check_entry(name, entry)
    except ALTERED as error:
        raise InputError(
            f"{run.location_of(run.stages)} does not list the files of stages: {error}; remove it, "
            "and crnn-search resume makes up what is lost"
        ) from error
    known: dict[str, Files] = values
    return known


def _check_entry(name: str, entry: Any) -> None:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise ValueError(f"{name!r:.200} is not a file of the run")
    found = {key: entry[key] for key in ("bytes", "sha256")}
    check_types(found, {"bytes": "int", "sha256": "str"})
    check_bounds(found, {"bytes": (0, 2**63)})


def _entry(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _altered(run: RunFolder, files: Files, *, contents: bool) -> list[str]:
    """The names of files that are missing or not as recorded."""
    return [name for name, entry in files.items() if not _is_as(run, name, entry, contents)]


def _is_as(run: RunFolder, name: str, entry: dict[str, Any], contents: bool) -> bool:
    path, size = run.root / name, run.size(run.root / name)
    grows = name in APPENDED
    if size is None or size < entry["bytes"] or (size > entry["bytes"] and not grows):
        return False
    if not contents or not path.is_file():
        return True
    try:
        with path.open("rb") as file:
            content = file.read(entry["bytes"])
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return bool(hashlib.sha256(content).hexdigest() == entry["sha256"])
