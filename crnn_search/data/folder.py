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

METADATA = "metadata.csv"
REQUIRED = ("file_name", "sequence")
OPTIONAL = ("position", "split", "group")


@dataclass(frozen=True)
class FolderIndex:
    """What `metadata.csv` says.

    target: the name of its column. files: the distinct files that can be read, and the first row of
    each. entries: the file of each image, sequence by sequence, int64 `(R,)`. rows: the first row
    of each sequence. state: a digest of `metadata.csv` and of all files' sizes and times of change.
    notes: what the user should know.
    """

    sequences: SequenceList
    target: str
    files: dict[str, int]
    entries: NDArray[np.int64]
    rows: list[int]
    state: str
    notes: list[str]

    def where(self, sequence: int) -> str:
        """The file and row of a sequence, for a message."""
        return row_name(self.rows[sequence])


@dataclass
class _Rows:
    """The rows of one sequence.

    row, target, split, group: the number and texts of the first. files: the file of each.
    """

    row: int
    target: str
    split: str
    group: str
    files: list[int] = field(default_factory=list)
    by_position: dict[float, int] = field(default_factory=dict)


def row_name(row: int) -> str:
    """A row of `metadata.csv`, for a message."""
    return f"{METADATA}, row {row}"


def read_index(folder: Path, target: str | None, problems: Problems) -> FolderIndex:
    """Read and check `metadata.csv`, and look up all files that it names.

    Problems of rows and files are added to `problems`. Symbolic links are followed.

    Raises:
        DataError: `metadata.csv` is missing, no CSV file, or lacks a column.
    """
    content = _content(folder, problems)
    header, rows = _parse(content, problems)
    columns, target = _columns(header, target, problems)
    problems.stop_if_any()
    reader = _Reader(columns, target, problems)
    for number, row in rows:
        reader.add(number, row)
    if not reader.found:
        problems.add(METADATA, "has no rows; one row an image is needed")
        problems.stop_if_any()
    states = [_file_state(folder, name, row, problems) for name, (_, row) in reader.files.items()]
    state = hashlib.sha256(content + "".join(states).encode("utf-8", "surrogateescape"))
    return FolderIndex(
        sequences=reader.sequences(),
        target=target,
        files={
            name: row
            for (name, (_, row)), known in zip(reader.files.items(), states, strict=True)
            if known
        },
        entries=np.array([file for seq in reader.found.values() for file in seq.files], np.int64),
        rows=[seq.row for seq in reader.found.values()],
        state=state.hexdigest(),
        notes=[
            f"the column {name!r} is not used{hint}"
            for name in columns
            if name not in (*REQUIRED, *OPTIONAL, target) and (hint := near(name, OPTIONAL))
        ],
    )


def _content(folder: Path, problems: Problems) -> bytes:
    try:
        return (folder / METADATA).read_bytes()
    except OSError as error:
        problems.add(METADATA, f"cannot be read: {error.strerror}; a folder of images needs it")
        problems.stop_if_any()
        raise


def _parse(content: bytes, problems: Problems) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The names of the columns, and a number and the values of each row that follows."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        problems.add(row_name(row), "is not UTF-8; save the file with that encoding")
        problems.stop_if_any()
        raise
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)

    def rows() -> Iterator[tuple[int, list[str]]]:
        row = 0
        try:
            for row, values in enumerate(reader, start=1):
                yield row, values
        except csv.Error as error:
            problems.add(row_name(row + 1), f"is not valid CSV: {error}")

    numbered = rows()
    _, header = next(numbered, (1, []))
    return [name.strip() for name in header], numbered


def _columns(
    header: list[str], target: str | None, problems: Problems
) -> tuple[dict[str, int], str]:
    """The index of each column that is used, and the target column."""
    listed = ", ".join(header) or "none"
    for name in REQUIRED:
        if name not in header:
            hint = near(name, header, "is it")
            problems.add(METADATA, f"has no column {name!r}{hint} (its columns: {listed})")
    for name in sorted({name for name in header if header.count(name) > 1}):
        problems.add(METADATA, f"has {header.count(name)} columns {name!r}")
    others = [name for name in header if name and name not in (*REQUIRED, *OPTIONAL)]
    if target is None and len(others) != 1:
        problems.add(
            METADATA,
            f"has {len(others)} columns that may be the target; name one as `target` "
            f"(its columns: {listed})",
        )
    elif target is not None and target not in others:
        problems.add(
            METADATA,
            f"has no target column {target!r}{near(target, others)} (its columns: {listed})",
        )
    target = target if target is not None else "".join(others[:1])
    return {name: index for index, name in enumerate(header)}, target


class _Reader:
    """Gathers the rows of `metadata.csv`.

    found: the rows of each sequence. files: the number and the first row of each file.
    """

    def __init__(self, columns: dict[str, int], target: str, problems: Problems) -> None:
        self.found: dict[str, _Rows] = {}
        self.files: dict[str, tuple[int, int]] = {}
        self._columns = columns
        self._target = target
        self._problems = problems

    def add(self, number: int, row: list[str]) -> None:
        """Add a row, unless it is a blank line."""
        where = row_name(number)
        if not row:
            return
        if len(row) != len(self._columns):
            columns = len(self._columns)
            self._problems.add(where, f"has {len(row)} values, but there are {columns} columns")
            return
        name = self._value(row, "sequence")
        if not name:
            self._problems.add(where, "sequence is empty")
            return
        texts = [self._value(row, column) for column in (self._target, "split", "group")]
        sequence = self.found.setdefault(name, _Rows(number, texts[0], texts[1], texts[2]))
        if sequence.row != number:
            self._compare(name, number, texts)
        file = row[self._columns["file_name"]]
        index, _ = self.files.setdefault(file, (len(self.files), number))
        sequence.files.append(index)
        if "position" in self._columns:
            self._add_position(name, number, self._value(row, "position"))

    def _value(self, row: list[str], column: str) -> str:
        index = self._columns.get(column)
        return "" if index is None else row[index].strip()

    def _compare(self, name: str, number: int, texts: list[str]) -> None:
        """Check that a row says of its sequence what the first row says."""
        first = self.found[name]
        before = (first.target, first.split, first.group)
        for what, text, other in zip((self._target, "split", "group"), texts, before, strict=True):
            same = text == other or (what == self._target and _number(text) == _number(other))
            if not same:
                self._problems.add(
                    row_name(number),
                    f"{what} is {text!r}, but {other!r} in row {first.row}; it must be the same "
                    f"in all rows of the sequence {name!r}",
                )

    def _add_position(self, name: str, number: int, text: str) -> None:
        position, rows = _number(text), self.found[name]
        if position is None:
            self._problems.add(row_name(number), f"position must be a number, got {text!r}")
        elif position in rows.by_position:
            self._problems.add(
                row_name(number), f"position {text} is twice in the sequence {name!r}"
            )
        else:
            rows.by_position[position] = rows.files[-1]

    def sequences(self) -> SequenceList:
        """Put the images of each sequence in order; check its target and length."""
        for name, rows in self.found.items():
            where = row_name(rows.row)
            if _number(rows.target) is None:
                self._problems.add(where, f"{self._target} must be {A_NUMBER}, got {rows.target!r}")
            if len(rows.files) > LONGEST:
                self._problems.add(where, f"{name!r} has {too_many(len(rows.files))}")
            if "position" in self._columns:
                rows.files = [rows.by_position[position] for position in sorted(rows.by_position)]
        found = self.found.values()
        splits = [rows.split for rows in found]
        groups = [rows.group for rows in found]
        if any(groups):
            for rows in found:
                if not rows.group:
                    self._problems.add(row_name(rows.row), "group is empty, but not in all rows")
        return SequenceList(
            list(self.found),
            np.array([len(rows.files) for rows in found], np.int64),
            np.array([_number(rows.target) or 0.0 for rows in found], np.float64),
            splits if any(splits) else None,
            groups if any(groups) else None,
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
