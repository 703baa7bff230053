"""Locations as a user names them: a folder, or a URI of an object store."""

from __future__ import annotations

import re
from pathlib import Path

from crnn_search.errors import InputError
from crnn_search.text import shown

_ALMOST_A_URI = re.compile(r"[a-z][a-z0-9+.-]*:[/\\]|(s3|gs|az):|(s3|gs|az)//", re.IGNORECASE)


def is_uri(location: str) -> bool:
    """Whether a location is in an object store, not a folder."""
    return "://" in location


def local_path(location: str | Path) -> Path:
    """The folder or file that a user names; `~` and `~USER` are home folders.

    Raises:
        InputError: there is no such home folder, or it looks like a URI with a mistake.
    """
    text = str(location)
    if _ALMOST_A_URI.match(text):
        raise InputError(
            f"a location must be a path or a URI such as s3://BUCKET/PREFIX, got {shown(text)}; "
            "a path that looks like a URI is valid with ./ before it"
        )
    path = Path(text)
    if text.startswith("~"):
        try:
            return path.expanduser()
        except RuntimeError as error:
            if not path.exists():
                raise InputError(f"there is no home folder for {shown(text)}") from error
    if str(path).startswith("~") or _ALMOST_A_URI.match(str(path)):
        return path.absolute()  # pathlib drops the ./ that says what it is
    return path


def join(location: str, *names: str) -> str:
    """A location below a folder or a URI; a URI's options stay at its end."""
    path, mark, options = location.partition("?") if is_uri(location) else (location, "", "")
    return "/".join([path.rstrip("/"), *(name for name in names if name)]) + mark + options
