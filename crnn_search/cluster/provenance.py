"""Where a run comes from: commit of this package, job of a cluster, the machine's processor."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

JOB_VARIABLE = "CRNN_SEARCH_JOB"
"""Environment variable of a submitted run's driver: the id of its job."""

COMMIT_VARIABLE = "CRNN_SEARCH_COMMIT"
"""The same: the commit of the package that the job brought along."""


def git_commit() -> str | None:
    """The commit this package stands at, if run from a checkout; marked where files differ.

    A package that was submitted to a cluster is told its commit by the environment.
    """
    if COMMIT_VARIABLE in os.environ:
        return os.environ[COMMIT_VARIABLE]
    try:
        done = subprocess.run(
            [
                "git",
                "-C",
                str(Path(__file__).parent),
                "describe",
                "--always",
                "--abbrev=40",
                "--dirty",
            ],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
