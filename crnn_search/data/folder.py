"""A folder of images with `metadata.csv`, as Hugging Face's imagefolder has it.

One row an image. Columns: `file_name`, relative to the folder; `sequence`, the same in all rows of
a sequence; the target; and, if wanted, `position` (else rows are in order), `split` and `group`.
The first row, the names of the columns, is row 1 in messages.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crnn_search.data.problems import Problems, near
from crnn_search.data.sequence_list import A_NUMBER, LARGEST_TARGET, LONGEST, SequenceList, too_many
from crnn_search.text import shown

METADATA = "metadata.csv"
REQUIRED = ("file_name", "sequence")
OPTIONAL = ("position", "split", "group")


@dataclass(frozen=True, eq=False)
class FolderIndex:
    """What `metadata.csv` says.

    target: the name of its column; empty: there is none. files: the distinct files, and the first
    row of each. entries: the number of the file of each image, sequence by sequence, int64 `(R,)`.
    state: a digest of `metadata.csv` and of all files' sizes and times. notes: what the user should
    know.
    """

    sequences: SequenceList
    target: str
    files: dict[str, str]
    entries: NDArray[np.int64]
    state: str
    notes: list[str]


class _Row(NamedTuple):
    """A row of `metadata.csv`: its name in messages, and its values by column."""

    where: str
    values: dict[str, str]


def is_inside(name: str) -> bool:
    """Whether a `file_name` names a file in the folder. Symbolic links are the user's own."""
    return not name.startswith("/") and ".." not in name.split("/")


def row_name(row: int) -> str:
    """A row of `metadata.csv`, for a message."""
    return f"{METADATA}, row {row}"


def read_index(
    folder: Path,
    target: str | None,
    problems: Problems,
    *,
    usual: str | None = None,
    labelled: bool = True,
) -> FolderIndex:
    """Read and check `metadata.csv`, and look up all files that it names.

    Problems of rows and files are added to `problems`. Symbolic links are followed.

    target: the name of its column. usual: that which is meant if none is named and it is there.
    labelled: there must be a target; its column may be left out of one that is to be predicted, or
    be empty.

    Raises:
        DataError: `metadata.csv` is missing, no CSV file, has no rows, or lacks a column.
    """
    try:
        content = (folder / METADATA).read_bytes()
    except OSError as error:
        problems.fail(METADATA, f"cannot be read: {error.strerror}; a folder of images needs it")
    columns, rows = _parse(content, problems)
    named = _target_column(
        columns, target or (usual if usual in columns else None), problems, labelled
    )
    if not rows:
        problems.fail(METADATA, "has no rows; one row an image is needed")
    empty = not labelled and target is None and not any(row.values.get(named) for row in rows)
    target = "" if empty else named
    by_name: dict[str, list[_Row]] = {}
    for row in rows:
        by_name.setdefault(row.values["sequence"], []).append(row)
    in_order = [
        row
        for name, members in by_name.items()
        for row in _in_order(name, members, target, problems)
    ]
    files: dict[str, str] = {}
    for row in rows:
        files.setdefault(row.values["file_name"], row.where)
    states = [_file_state(folder, name, where, problems) for name, where in files.items()]
    numbers = {name: number for number, name in enumerate(files)}
    entries = [numbers[row.values["file_name"]] for row in in_order]
    return FolderIndex(
        _sequence_list(by_name, target, problems),
        target,
        files,
        np.array(entries, np.int64),
        hashlib.sha256(content + "".join(states).encode()).hexdigest(),
        _misspelt(columns, target),
    )


def _misspelt(columns: list[str], target: str) -> list[str]:
    """A warning for each unused column that is named nearly as one that would be used."""
    return [
        f"the column {name!r} is not used{hint}"
        for name in columns
        if name not in {*REQUIRED, *OPTIONAL, target} and (hint := near(name, OPTIONAL))
    ]


def _parse(content: bytes, problems: Problems) -> tuple[list[str], list[_Row]]:
    """The names of the columns; the rows, without blank lines."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        problems.fail(row_name(row), "is not UTF-8; save the file with that encoding")
    number, header, rows = 0, [], []
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
        for number, line in enumerate(reader, start=1):
            values, where = [value.strip() for value in line], row_name(number)
            if number == 1:
                header = values
            elif len(values) == len(header):
                rows.append(_Row(where, dict(zip(header, values, strict=True))))
            elif values:
                counts = f"{len(values)} values, but there are {len(header)} columns"
                problems.add(where, f"has {counts}")
    except csv.Error as error:
        problems.fail(row_name(number + 1), f"is not valid CSV: {error}")
    return header, rows


def _target_column(
    columns: list[str], target: str | None, problems: Problems, labelled: bool
) -> str:
    """The name of the target column, if all columns that are needed are there; empty: none."""
    listed = f"(its columns: {', '.join(columns) or 'none'})"
    for name in REQUIRED:
        if name not in columns:
            problems.add(METADATA, f"has no column {name!r}{near(name, columns)} {listed}")
    for name in sorted({name for name in columns if name and columns.count(name) > 1}):
        problems.add(METADATA, f"has {columns.count(name)} columns {name!r}")
    others = [name for name in columns if name and name not in (*REQUIRED, *OPTIONAL)]
    if target is None and len(others) != 1 and labelled:
        found = f"{len(others)} columns that may be the target"
        problems.add(METADATA, f"has {found}; name one as `target` {listed}")
    elif target is not None and target not in others:
        problems.add(METADATA, f"has no target column {target!r}{near(target, others)} {listed}")
    problems.raise_any()
    return target or (others[0] if labelled else "")


def _in_order(name: str, rows: list[_Row], target: str, problems: Problems) -> list[_Row]:
    """The rows of a sequence by position; checks them."""
    where, first = rows[0]
    if not name:
        problems.add(where, "sequence is empty")
    if target and _number(first[target]) is None:
        problems.add(where, f"{target} must be {A_NUMBER}, got {shown(first[target])}")
    if len(rows) > LONGEST:
        problems.add(where, f"{shown(name)} has {too_many(len(rows))}")
    by_position: dict[float, _Row] = {}
    for number, row in enumerate(rows):
        for column in filter(None, (target, "split", "group")):
            value, before = row.values.get(column), first.get(column)
            if value != before:
                problems.add(
                    row.where,
                    f"{column} is {shown(value)}, but {shown(before)} in {where}; it must be the "
                    f"same in all rows of the sequence {shown(name)}",
                )
        text = row.values.get("position")
        position = number if text is None else _number(text)
        if position is None:
            problems.add(row.where, f"position must be a number, got {shown(text)}")
        elif position in by_position:
            problems.add(row.where, f"position {text} is twice in the sequence {shown(name)}")
        else:
            by_position[position] = row
    return [by_position[position] for position in sorted(by_position)]


def _sequence_list(by_name: dict[str, list[_Row]], target: str, problems: Problems) -> SequenceList:
    first = [rows[0] for rows in by_name.values()]

    def optional(column: str) -> list[str] | None:
        values = [row.values.get(column, "") for row in first]
        return values if any(values) else None

    def value(row: _Row) -> float:
        return (_number(row.values[target]) or 0.0) if target else math.nan

    groups = optional("group")
    for row, group in zip(first, groups or [], strict=False):
        if not group:
            problems.add(row.where, "group is empty, but not in all rows")
    return SequenceList(
        list(by_name),
        np.array([len(rows) for rows in by_name.values()], np.int64),
        np.array(list(map(value, first)), np.float64),
        optional("split"),
        groups,
        [row.where for row in first],
    )


def _number(text: str) -> float | None:
    """A valid number, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) <= LARGEST_TARGET and "_" not in text else None


def _file_state(folder: Path, name: str, where: str, problems: Problems) -> str:
    """The name, size and times of a file; a problem if it cannot be used."""
    if not name:
        problem = "file_name is empty"
    elif not is_inside(name):
        problem = f"{name} is not in the folder; file_name is relative to it"
    else:
        try:
            found = (folder / name).stat()
            if stat.S_ISREG(found.st_mode):
                return f"{name}\n{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}\n"
            problem = f"{name} is not a file"
        except (OSError, ValueError) as error:  # ValueError: a name with a null character
            problem = f"{name} cannot be read: {getattr(error, 'strerror', None) or error}"
    problems.add(where, problem)
    return ""
