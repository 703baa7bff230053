"""Trials that wait in the middle of a search until a test has put in its fault.

The first trials train as always. Each later one waits in a step, after its first epoch, until its
host has a file: so the search neither ends nor continues before. The file is the host's own: a test
can write it while the storage or the network is away. The trials are those of `held_trials`.
"""

from __future__ import annotations

import os
from pathlib import Path

FREE = 2
"""How many trials do not wait."""

HELD_FOR_S = 300.0
"""How long a trial waits before it fails."""

FOLDER = "HELD"
"""Environment variable that names the folder with a host's files; by default its home."""


PROGRAM = """
import os
os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it when it is imported
from crnn_search.tuning import tuner
from tests.held_trials import HeldTrainable
tuner.TrialTrainable = HeldTrainable
"""
"""What a program does first whose trials are held."""


def go_file(search: str, folder: Path | None = None) -> Path:
    """The file that lets the trials of a search go which wait on a host.

    folder: the host's, as the caller sees it; by default this process's.
    """
    return (folder or _folder()) / f"{search}.go"


def notes_file(search: str, folder: Path | None = None) -> Path:
    """The file with what trials of a search have noticed on a host: see `go_file`."""
    return (folder or _folder()) / f"{search}.notes"


def _folder() -> Path:
    return Path(os.environ.get(FOLDER) or Path.home())
