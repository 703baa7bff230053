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
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

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

    target: the name of its column. files: the distinct files, and the first row of each. entries:
    the number of the file of each image, sequence by sequence, int64 `(R,)`. state: a digest of
    `metadata.csv` and of all files' sizes and times. notes: what the user should know.
    """

    sequences: SequenceList
    target: str
    files: dict[str, int]
    entries: NDArray[np.int64]
    state: str
    notes: list[str]


@dataclass(frozen=True)
class _Table:
    """The rows of `metadata.csv`: their numbers, and their values by column."""

    numbers: list[int]
    columns: dict[str, list[str]]

    def optional(self, column: str) -> list[str] | None:
        """The values of a column, unless it is missing or empty."""
        values = self.columns.get(column, [])
        return values if any(values) else None


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
    table = _parse(content, problems)
    target = _target_column(list(table.columns), target, problems)
    if not table.numbers:
        problems.fail(METADATA, "has no rows; one row an image is needed")
    names, file_names = table.columns["sequence"], table.columns["file_name"]
    first: dict[str, int] = {}
    files: dict[str, int] = {}
    for place, (name, file) in enumerate(zip(names, file_names, strict=True)):
        first.setdefault(name, place)
        files.setdefault(file, table.numbers[place])
    order = _order(table, first, problems)
    sequences = _sequence_list(table, first, target, problems)
    states = [_file_state(folder, name, row, problems) for name, row in files.items()]
    numbers = {name: number for number, name in enumerate(files)}
    notes = [
        f"the column {name!r} is not used{hint}"
        for name in table.columns
        if name not in {*REQUIRED, *OPTIONAL, target} and (hint := near(name, OPTIONAL))
    ]
    return FolderIndex(
        sequences,
        target,
        files,
        np.array([numbers[file_names[place]] for place in order], np.int64),
        hashlib.sha256(content + "".join(states).encode()).hexdigest(),
        notes,
    )


def _parse(content: bytes, problems: Problems) -> _Table:
    """The rows, without blank lines and those with too few or too many values."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        problems.fail(row_name(row), "is not UTF-8; save the file with that encoding")
    number, header = 0, []
    rows: dict[int, list[str]] = {}
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
        for number, values in enumerate(reader, start=1):
            if number == 1:
                header = [name.strip() for name in values]
            elif len(values) == len(header):
                rows[number] = [value.strip() for value in values]
            elif values:
                counts = f"{len(values)} values, but there are {len(header)} columns"
                problems.add(row_name(number), f"has {counts}")
    except csv.Error as error:
        problems.fail(row_name(number + 1), f"is not valid CSV: {error}")
    for name in sorted({name for name in header if name and header.count(name) > 1}):
        problems.add(METADATA, f"has {header.count(name)} columns {name!r}")
    values_of = zip(*rows.values(), strict=True) if rows else [()] * len(header)
    columns = {name: list(values) for name, values in zip(header, values_of, strict=True)}
    return _Table(list(rows), columns)


def _target_column(columns: list[str], target: str | None, problems: Problems) -> str:
    """The name of the target column, if all columns that are needed are there."""
    listed = f"(its columns: {', '.join(columns) or 'none'})"
    for name in REQUIRED:
        if name not in columns:
            problems.add(METADATA, f"has no column {name!r}{near(name, columns)} {listed}")
    others = [name for name in columns if name and name not in (*REQUIRED, *OPTIONAL)]
    if target is None and len(others) != 1:
        found = f"{len(others)} columns that may be the target"
        problems.add(METADATA, f"has {found}; name one as `target` {listed}")
    elif target is not None and target not in others:
        problems.add(METADATA, f"has no target column {target!r}{near(target, others)} {listed}")
    problems.raise_any()
    return target or others[0]


def _order(table: _Table, first: dict[str, int], problems: Problems) -> list[int]:
    """The places of all rows, sequence by sequence, in each by position."""
    names = table.columns["sequence"]
    positions: list[float] = list(range(len(names)))
    seen: set[tuple[str, float]] = set()
    for place, text in enumerate(table.columns.get("position", [])):
        where, name, position = row_name(table.numbers[place]), names[place], _number(text)
        if position is None:
            problems.add(where, f"position must be a number, got {shown(text)}")
        elif (name, position) in seen:
            problems.add(where, f"position {text} is twice in the sequence {shown(name)}")
        else:
            seen.add((name, position))
            positions[place] = position
    return sorted(range(len(names)), key=lambda place: (first[names[place]], positions[place]))


def _sequence_list(
    table: _Table, first: dict[str, int], target: str, problems: Problems
) -> SequenceList:
    """The sequences; checks what must be the same in all rows of one, the targets and lengths."""
    names, targets = table.columns["sequence"], table.columns[target]
    splits, groups = table.optional("split"), table.optional("group")
    numbers = [_number(text) for text in targets]
    compared = {target: (targets, numbers), "split": (splits, splits), "group": (groups, groups)}
    for place, name in enumerate(names):
        where = row_name(table.numbers[place])
        if not name:
            problems.add(where, "sequence is empty")
            continue
        if place == first[name]:
            if numbers[place] is None:
                problems.add(where, f"{target} must be {A_NUMBER}, got {shown(targets[place])}")
            if groups and not groups[place]:
                problems.add(where, "group is empty, but not in all rows")
        for what, (texts, values) in compared.items():
            if texts and values and values[place] != values[first[name]]:
                before = f"{shown(texts[first[name]])} in row {table.numbers[first[name]]}"
                problems.add(
                    where,
                    f"{what} is {shown(texts[place])}, but {before}; it must be the same in all "
                    f"rows of the sequence {shown(name)}",
                )
    lengths = Counter(names)
    for name, length in lengths.items():
        if length > LONGEST:
            where = row_name(table.numbers[first[name]])
            problems.add(where, f"{shown(name)} has {too_many(length)}")
    places = first.values()
    return SequenceList(
        list(first),
        np.array([lengths[name] for name in first], np.int64),
        np.array([numbers[place] or 0.0 for place in places], np.float64),
        [splits[place] for place in places] if splits else None,
        [groups[place] for place in places] if groups else None,
        [row_name(table.numbers[place]) for place in places],
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
    if not name:
        problem = "file_name is empty"
    elif name.startswith("/") or ".." in PurePosixPath(name).parts:
        problem = f"{name} is not in the folder; file_name is relative to it"
    else:
        try:
            found = (folder / name).stat()
            if stat.S_ISREG(found.st_mode):
                return f"{name}\n{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}\n"
            problem = f"{name} is not a file"
        except (OSError, ValueError) as error:  # ValueError: a name with a null character
            problem = f"{name} cannot be read: {getattr(error, 'strerror', None) or error}"
    problems.add(row_name(row), problem)
    return ""
