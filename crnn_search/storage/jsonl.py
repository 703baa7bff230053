"""Append-only files of JSON lines, one object a line: complete lines survive any crash.

A line is complete if it ends in a newline. A crash while writing leaves at most one torn line, the
last, which `read` skips and the next `append` removes.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from crnn_search.errors import InputError
from crnn_search.storage.files import encode, parse_json
from crnn_search.text import shown

Record = dict[str, Any]


def append(path: Path, record: Record) -> None:
    """Append a line with a single write and flush it to the disk. Only one process may append.

    Raises:
        OSError: the disk is full or cannot be written.
        ValueError: the record holds NaN or an infinity; use null.
    """
    _append(path, record, again=False)


def append_again(path: Path, record: Record) -> None:
    """Append a line unless it is the last one already; raises as `append`.

    An append that failed, since the line could not be flushed, may have written it.
    """
    _append(path, record, again=True)


def read(path: Path) -> list[Record]:
    """All complete lines, in the order in which they were written.

    Raises:
        InputError: the file cannot be read, or a complete line is not a JSON object.
    """
    try:
        if path.exists() and not path.is_file():  # to read a FIFO could last for ever
            raise InputError(f"cannot read {path}: it is not a regular file")
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return [_parse(path, number, line) for number, line in enumerate(lines, start=1)]


def _parse(path: Path, number: int, line: bytes) -> Record:
    try:
        record = parse_json(line)
    except ValueError as error:
        raise InputError(f"line {number} of {path} is not valid JSON: {error}") from error
    if not isinstance(record, dict):
        raise InputError(f"line {number} of {path} must be a JSON object, got {shown(record)}")
    return record


def _append(path: Path, record: Record, *, again: bool) -> None:
    line = encode(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        _remove_torn_line(handle)
        if not (again and _last_line_is(handle, line)) and os.write(handle, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(handle)
    finally:
        os.close(handle)


def _last_line_is(handle: int, line: bytes) -> bool:
    start = os.fstat(handle).st_size - len(line)
    return start >= 0 and os.pread(handle, len(line), start) == line


def _remove_torn_line(handle: int) -> None:
    size = os.fstat(handle).st_size
    if size and os.pread(handle, 1, size - 1) != b"\n":
        os.ftruncate(handle, os.pread(handle, size, 0).rfind(b"\n") + 1)
