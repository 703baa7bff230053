"""A folder of images with `metadata.csv`, as Hugging Face's imagefolder has it.

One row an image. Columns: `file_name`, relative to the folder; `sequence`, the same in all rows of
a sequence; the target; and, if wanted, `position` (else rows are in order), `split` and `group`.
The first row, the names of the columns, is row 1 in messages.
"""

from __future__ import annotations

import csv
import hashlib
import io
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from crnn_search.data.problems import Problems, near
from crnn_search.data.sequence_list import (
    A_NUMBER,
    LARGEST_TARGET,
    LONGEST,
    SequenceList,
    too_many,
)
from crnn_search.text import shown

METADATA = "metadata.csv"
REQUIRED = ("file_name", "sequence")
OPTIONAL = ("position", "split", "group")


@dataclass(frozen=True, eq=False)
class FolderIndex:
    """What `metadata.csv` says.

    target: the name of its column. files: the distinct files that can be read, and the first row of
    each. entries: the number of the file of each image, sequence by sequence, int64 `(R,)`. state:
    a digest of `metadata.csv` and of all files' sizes and times. notes: what the user should know.
    """

    sequences: SequenceList
    target: str
    files: dict[str, int]
    entries: NDArray[np.int64]
    state: str
    notes: list[str]


@dataclass
class _Rows:
    """The rows of one sequence.

    first: the number of the first one. target, split, group: as there. files: by position.
    """

    first: int
    target: str
    split: str
    group: str
    files: dict[float, str] = field(default_factory=dict)


def row_name(row: int) -> str:
    """A row of `metadata.csv`, for a message."""
    return f"{METADATA}, row {row}"


def read_index(folder: Path, target: str | None, problems: Problems) -> FolderIndex:
    """Read and check `metadata.csv`, and look up all files that it names.

    Problems of rows and files are added to `problems`. Symbolic links are followed.

    Raises:
        DataError: `metadata.csv` is missing, no CSV file, has no rows, or lacks a column.
    """
    try:
        content = (folder / METADATA).read_bytes()
    except OSError as error:
        problems.fail(METADATA, f"cannot be read: {error.strerror}; a folder of images needs it")
    header, rows = _parse(content, problems)
    target = _target_column(header, target, problems)
    found, files = _gather(rows, target, problems)
    if not found:
        problems.fail(METADATA, "has no rows; one row an image is needed")
    sequences = _sequence_list(found, target, problems)
    states = {name: _file_state(folder, name, row, problems) for name, row in files.items()}
    state = hashlib.sha256(content + "".join(states.values()).encode())
    numbers = {name: number for number, name in enumerate(files)}
    in_order = [rows.files[key] for rows in found.values() for key in sorted(rows.files)]
    entries = np.array([numbers[name] for name in in_order], np.int64)
    notes = [
        f"the column {name!r} is not used{hint}"
        for name in header
        if name not in (*REQUIRED, *OPTIONAL, target) and (hint := near(name, OPTIONAL))
    ]
    readable = {name: row for name, row in files.items() if states[name]}
    return FolderIndex(sequences, target, readable, entries, state.hexdigest(), notes)


def _parse(
    content: bytes, problems: Problems
) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """The names of the columns; the number and the values of each row that follows."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        problems.fail(row_name(row), "is not UTF-8; save the file with that encoding")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)

    def lines() -> Iterator[tuple[int, list[str]]]:
        row = 0
        try:
            for row, values in enumerate(reader, start=1):
                yield row, [value.strip() for value in values]
        except csv.Error as error:
            problems.add(row_name(row + 1), f"is not valid CSV: {error}")

    def rows() -> Iterator[tuple[int, dict[str, str]]]:
        for row, values in numbered:
            if len(values) == len(header):
                yield row, dict(zip(header, values, strict=True))
            elif values:  # no blank line
                problems.add(
                    row_name(row), f"has {len(values)} values, but there are {len(header)} columns"
                )

    numbered = lines()
    _, header = next(numbered, (1, []))
    return header, rows()


def _target_column(header: list[str], target: str | None, problems: Problems) -> str:
    """The name of the target column, if all that are needed are there."""
    listed = f"(its columns: {', '.join(header) or 'none'})"
    for name in REQUIRED:
        if name not in header:
            problems.add(METADATA, f"has no column {name!r}{near(name, header)} {listed}")
    for name in sorted({name for name in header if name and header.count(name) > 1}):
        problems.add(METADATA, f"has {header.count(name)} columns {name!r}")
    others = [name for name in header if name and name not in (*REQUIRED, *OPTIONAL)]
    if target is None and len(others) != 1:
        problems.add(
            METADATA,
            f"has {len(others)} columns that may be the target; name one as `target` {listed}",
        )
    elif target is not None and target not in others:
        problems.add(METADATA, f"has no target column {target!r}{near(target, others)} {listed}")
    problems.raise_any()
    return target or others[0]


def _gather(
    rows: Iterator[tuple[int, dict[str, str]]], target: str, problems: Problems
) -> tuple[dict[str, _Rows], dict[str, int]]:
    """The rows of each sequence, and the first row of each file."""
    found: dict[str, _Rows] = {}
    files: dict[str, int] = {}
    for number, row in rows:
        name, file = row["sequence"], row["file_name"]
        if not name:
            problems.add(row_name(number), "sequence is empty")
            continue
        own = _Rows(number, row[target], row.get("split", ""), row.get("group", ""))
        sequence = found.setdefault(name, own)
        _compare(name, sequence, own, target, problems)
        files.setdefault(file, number)
        text = row.get("position")
        position = float(len(sequence.files)) if text is None else _number(text)
        if position is None:
            problems.add(row_name(number), f"position must be a number, got {shown(text)}")
        elif position in sequence.files:
            problems.add(
                row_name(number), f"position {text} is twice in the sequence {shown(name)}"
            )
        else:
            sequence.files[position] = file
    return found, files


def _compare(name: str, first: _Rows, own: _Rows, target: str, problems: Problems) -> None:
    """Check that a row says of its sequence what the first row says."""
    same_target = own.target == first.target or (
        _number(own.target) is not None and _number(own.target) == _number(first.target)
    )
    for what, same, value, before in (
        (target, same_target, own.target, first.target),
        ("split", own.split == first.split, own.split, first.split),
        ("group", own.group == first.group, own.group, first.group),
    ):
        if not same:
            problems.add(
                row_name(own.first),
                f"{what} is {shown(value)}, but {shown(before)} in row {first.first}; it must be "
                f"the same in all rows of the sequence {shown(name)}",
            )


def _sequence_list(found: dict[str, _Rows], target: str, problems: Problems) -> SequenceList:
    """The sequences; checks the target, the group and the length of each."""
    sequences = found.values()
    where = [row_name(rows.first) for rows in sequences]
    grouped = any(rows.group for rows in sequences)
    for name, rows, row in zip(found, sequences, where, strict=True):
        if _number(rows.target) is None:
            problems.add(row, f"{target} must be {A_NUMBER}, got {shown(rows.target)}")
        if grouped and not rows.group:
            problems.add(row, "group is empty, but not in all rows")
        if len(rows.files) > LONGEST:
            problems.add(row, f"{shown(name)} has {too_many(len(rows.files))}")
    return SequenceList(
        list(found),
        np.array([len(rows.files) for rows in sequences], np.int64),
        np.array([_number(rows.target) or 0.0 for rows in sequences], np.float64),
        [rows.split for rows in sequences] if any(rows.split for rows in sequences) else None,
        [rows.group for rows in sequences] if grouped else None,
        where,
    )


def _number(text: str) -> float | None:
    """A valid number, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) <= LARGEST_TARGET and "_" not in text else None


def _file_state(folder: Path, name: str, row: int, problems: Problems) -> str:
    """The name, size and times of a file; a problem if it cannot be used."""
    where = row_name(row)
    if not name:
        problems.add(where, "file_name is empty")
    elif name.startswith("/") or ".." in PurePosixPath(name).parts:
        problems.add(where, f"{name} is not in the folder; file_name is relative to it")
    else:
        try:
            found = (folder / name).stat()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            problems.add(where, f"{name} cannot be read: {reason}")
        else:
            if stat.S_ISREG(found.st_mode):
                return f"{name}\n{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}\n"
            problems.add(where, f"{name} is not a file")
    return ""
