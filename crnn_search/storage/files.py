"""Text and JSON files that are written atomically: whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crnn_search.errors import InputError, StorageError

_LONE_SURROGATES = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Those that stand for no byte of a file name."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """A block that writes a file or a folder of a run.

    Raises:
        StorageError: it cannot: the disk is full or read-only, or the folder is gone.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(path, error) from error


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`; flushed to the disk and renamed if nothing is raised.

    Its mode is what the umask leaves of 0666. The folder must exist: one that was removed, or a
    share that is not mounted, is not created in its place.

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):  # the first error counts
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8: see `encode`.

    Raises:
        StorageError: it cannot be written.
    """
    with writing(path), atomic_write(path) as temporary:
        temporary.write_bytes(encode(text))


def encode(text: str) -> bytes:
    r"""A text in UTF-8, which has no lone surrogates.

    What Python makes of a file name that is not UTF-8 becomes an escape as `\udcff`, which JSON
    reads again; others become question marks.
    """
    return _LONE_SURROGATES.sub("?", text).encode(errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically.

    Raises:
        StorageError: it cannot be written.
        ValueError: the value holds NaN or an infinity; use null.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: it cannot be read or is not valid JSON.
    """
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def parse_json(content: bytes) -> Any:
    """The value in UTF-8 text of JSON, as this package writes it.

    Raises:
        ValueError: it is not JSON, or holds NaN, an infinity, thousands of lists in lists or
            a lone surrogate that stands for no byte of a file name.
    """
    try:
        value = json.loads(content.decode())
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode(errors="surrogateescape")
    except RecursionError:
        raise ValueError("its lists or objects are nested too deeply") from None
    return value
