"""Files that a user names: only regular ones are read, since a pipe or a device may never end."""

from __future__ import annotations

import stat
from pathlib import Path


def unreadable(path: Path) -> str | None:
    """Why a file cannot be read, for a message, or None if it can be opened.

    A FIFO, a socket and a device are refused before they are opened.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return "it is a folder; give a regular file"
        if not stat.S_ISREG(mode):
            return "it is a pipe, a device or a socket; give a regular file"
        path.open("rb").close()
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        return getattr(error, "strerror", None) or str(error)
    return None
