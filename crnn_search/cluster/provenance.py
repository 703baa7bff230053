"""Where a run comes from: the commit of this package and, on a cluster, its job."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import crnn_search

JOB_VARIABLE = "CRNN_SEARCH_JOB"
"""Environment variable of a submitted run's driver: the id of its job."""

COMMIT_VARIABLE = "CRNN_SEARCH_COMMIT"
"""The same: the commit of the package that was submitted with the job."""


def git_commit() -> str | None:
    """The commit of this package, with -dirty if files differ; None if it is not in its checkout.

    A package that was submitted to a cluster reads its commit from the environment.
    """
    if COMMIT_VARIABLE in os.environ:
        return os.environ[COMMIT_VARIABLE]
    return commit_of(Path(crnn_search.__file__).parent)


def commit_of(package: Path) -> str | None:
    """The commit of a package's own repository, whose root holds it.

    An installed package may be inside the repository of another project, whose commit is not its
    own.
    """
    checkout = package.resolve().parent
    root = _git(checkout, "rev-parse", "--show-toplevel")
    if root is None or Path(root).resolve() != checkout:
        return None
    return _git(checkout, "describe", "--always", "--abbrev=40", "--dirty")


def _git(folder: Path, *arguments: str) -> str | None:
    """The output of a git command; None if it failed or there is no git."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
