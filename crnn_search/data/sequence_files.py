"""Sequences to predict or to evaluate, in either format: not split, and not decoded ahead of use.

Shapes: `S` sequences, `T` time steps, `C` channels, `H` rows, `W` columns, `B` some sequences.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crnn_search.data.arrays import SequenceData, read_npz
from crnn_search.data.folder import METADATA, FolderIndex, read_index
from crnn_search.data.images import Progress, convert_array, size_text
from crnn_search.data.problems import Problems
from crnn_search.data.remote import look_up
from crnn_search.data.sequence_list import SequenceList
from crnn_search.data.task_info import TaskInfo
from crnn_search.errors import DataError
from crnn_search.hyperparameters import ImageShape
from crnn_search.storage import temporary
from crnn_search.storage.location import is_uri, local_path
from crnn_search.storage.regular_file import unreadable

Place = str | Path | SequenceData
"""A folder with `metadata.csv`, that file, or an `.npz` file, as path or URI; or arrays."""


@dataclass(frozen=True, eq=False)
class Sequences:
    """`S` sequences, at least one. Their images are files or arrays; the other of the two is None.

    place: where they are, as `data.read` takes it. found: names, lengths, targets, splits and
    groups. target: what the targets are called; empty: they are not known. files: of each sequence,
    in order. arrays: uint8 `(S, T, C, H, W)`; images at or beyond a sequence's length are padding.
    notes: what the user should know.
    """

    place: Place
    found: SequenceList
    target: str
    files: list[list[Path]] | None = None
    arrays: NDArray[np.uint8] | None = None
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.found.names)

    @property
    def targets(self) -> NDArray[np.float64] | None:
        """What is to be predicted, `(S,)`; None: it is not known."""
        return self.found.targets if self.target else None

    def pixels(self, rows: NDArray[np.int64], shape: ImageShape) -> NDArray[np.uint8]:
        """Some sequences of arrays, `(B, T, C, H, W)`, where `T` is the longest one's length.

        An image of another shape is resized and converted, as training does it.
        """
        assert self.arrays is not None
        lengths = self.found.lengths[rows]
        found = np.zeros((len(rows), lengths.max(), *shape), np.uint8)
        for place, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            for step in range(length):
                image = self.arrays[row, step]
                found[place, step] = convert_array(image, shape[1:], shape.channels)
        return found


@contextlib.contextmanager
def open_sequences(
    place: Place,
    task: TaskInfo,
    *,
    target: str | None = None,
    labelled: bool = True,
    progress: Progress = lambda what, done, total: None,
) -> Iterator[Sequences]:
    """The sequences of a folder, a file or arrays, for a block; those of a URI are copied for it.

    task: of the model that is to predict them. target: the column; by default `task.target`, if
    there is such a column, else the only one that is left. labelled: there must be targets; without
    them sequences can be predicted.

    Raises:
        DataError: they cannot be used; lists the first ten problems and says how many there are.
        InputError: it is a URI, but of no object store.
    """

    def index(folder: Path, problems: Problems) -> FolderIndex:
        return read_index(folder, target, problems, usual=task.target, labelled=labelled)

    with contextlib.ExitStack() as stack:
        if isinstance(place, SequenceData):
            found = _of_arrays(place, task, target, labelled=labelled)
        elif is_uri(str(place)):
            folder = stack.enter_context(temporary.folder())
            path = _fetch(str(place), folder, progress, index)
            found = replace(
                _read(path, str(place), task, target, index, labelled), place=str(place)
            )
        else:
            found = _read(local_path(place), str(place), task, target, index, labelled)
        yield found


def _fetch(
    uri: str, folder: Path, progress: Progress, index: Callable[[Path, Problems], FolderIndex]
) -> Path:
    try:
        return look_up(uri).copy(folder, progress, index)
    except OSError as error:
        raise DataError(f"cannot copy {uri} into {folder}: {error.strerror}; make room") from error


def _read(
    path: Path, name: str, task: TaskInfo, target: str | None,
    index: Callable[[Path, Problems], FolderIndex], labelled: bool,
) -> Sequences:  # fmt: skip
    """The sequences of a folder or a file. name: what messages call it."""
    if path.name == METADATA and not path.is_dir():
        path = path.parent
    if path.is_dir():
        return _of_folder(path, name, index)
    if path.suffix != ".npz":
        got = name if path.exists() else f"{name}, which does not exist"
        raise DataError(f"data must be a folder with {METADATA}, or an .npz file, got {got}")
    if reason := unreadable(path):
        raise DataError(f"{name} cannot be read: {reason}")
    data = read_npz(path, name, labelled=labelled)
    return replace(_of_arrays(data, task, target, labelled=labelled), place=path)


def _of_folder(
    folder: Path, name: str, index: Callable[[Path, Problems], FolderIndex]
) -> Sequences:
    problems = Problems(name)
    found = index(folder, problems)
    problems.raise_any()
    names = list(found.files)
    files = [folder / names[entry] for entry in found.entries]
    ends = found.sequences.lengths.cumsum().tolist()
    by_sequence = [files[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return Sequences(folder, found.sequences, found.target, by_sequence, notes=found.notes)


def _of_arrays(
    data: SequenceData, task: TaskInfo, target: str | None, *, labelled: bool
) -> Sequences:
    problems, arrays = Problems(data.name), data.pixels()
    if target is not None:
        problems.add("", f"has arrays; target names a column of {METADATA}, got {target!r}")
    if not len(arrays):
        problems.add("images", "holds no sequence; one at least is needed")
    if labelled and data.targets is None:
        problems.add("targets", "are missing; they are what predictions are compared with")
    if task.sums and arrays.shape[2:] != task.shape:
        size, got = size_text(task.shape[1:]), size_text(arrays.shape[3:])
        problems.add(
            "images",
            f"must be {size} in grey, one digit each, white on black as in MNIST, got {got} with "
            f"{arrays.shape[2]} channels; a model of digits prepares image files only: save them "
            f"as files, with {METADATA}",
        )
    problems.raise_any()
    name = "" if data.targets is None else "target"
    return Sequences(data, data.sequences(), name, arrays=arrays)
