"""The image files that arguments of a command name."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from crnn_search.errors import InputError
from crnn_search.storage.location import local_path

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif")
"""Of a folder's files that are taken for images."""


def image_files(arguments: Sequence[str]) -> list[Path]:
    """Files, in order. A folder or a pattern gives its files in the order of the numbers in them.

    `-` stands for the files that standard input lists, one a line.

    Raises:
        InputError: a folder, a pattern or standard input gives no file.
    """
    return [path for argument in arguments for path in _files(argument)]


def _files(argument: str) -> Iterable[Path]:
    if argument == "-":
        lines = [os.fsdecode(line.rstrip(b"\r\n")) for line in sys.stdin.buffer]
        if not (listed := [local_path(Path(line)) for line in lines if line.strip()]):
            raise InputError("standard input must list image files, one a line, got none")
        return listed
    path = local_path(Path(argument))
    if path.is_dir():
        found = [file for file in path.iterdir() if file.suffix.lower() in SUFFIXES]
        if not found:
            raise InputError(f"{argument} has no image files ({', '.join(SUFFIXES)})")
        return sorted(found, key=_by_number)
    if glob.has_magic(argument) and not path.exists():
        start = Path(path.anchor)
        try:
            found = list(start.glob(str(path.relative_to(start))))
        except ValueError as error:
            raise InputError(f"{argument} is no valid pattern: {error}") from error
        if not found:
            raise InputError(f"no file matches the pattern {argument}")
        return sorted(found, key=_by_number)
    return [path]


def _by_number(path: Path) -> list[tuple[int, int | str]]:
    """A key that puts `image_10` behind `image_9`."""
    parts = re.findall(r"\d+|\D+", path.name)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]
