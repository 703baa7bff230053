"""Locations as a user names them: a folder, or a URI of an object store."""

from __future__ import annotations


def is_uri(location: str) -> bool:
    """Whether a location is in an object store, not a folder."""
    return "://" in location


def join(location: str, *names: str) -> str:
    """A location below a folder or a URI; a URI's options stay at its end."""
    path, mark, options = location.partition("?")
    return "/".join([path.rstrip("/"), *(name for name in names if name)]) + mark + options
