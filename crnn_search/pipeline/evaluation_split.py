"""Which of some labelled sequences are evaluated: a split, or all; those of training are told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crnn_search.data.images import ImageFormat, Progress
from crnn_search.data.problems import Problems, near
from crnn_search.data.read import read
from crnn_search.data.sequence_files import Sequences
from crnn_search.data.sequence_list import SPLITS, assign_splits
from crnn_search.data.task_info import TaskInfo
from crnn_search.errors import DataError, InputError
from crnn_search.text import shown

ALL = "all"


@dataclass(frozen=True)
class Chosen:
    """rows: those that are evaluated, int64. facts: entries of the figures. warnings: of them."""

    rows: NDArray[np.int64]
    facts: dict[str, Any]
    warnings: list[str]


def choose(found: Sequences, task: TaskInfo, split: str | None, progress: Progress) -> Chosen:
    """The sequences of a split. task: of the model. split: `all`, a split of the data, or None:
    `test` of the data set that the model was trained on, all of another one.

    Raises:
        InputError: the data have no splits, or no sequence is in this one.
    """
    trained = training_splits(found, task, progress)
    splits = found.found.splits if trained is None else trained
    wanted = split or (ALL if trained is None else "test")
    rows, warnings = np.arange(len(found)), []
    if wanted != ALL:
        rows = _rows(splits, wanted)
    if trained is not None and wanted != "test":
        warnings.append(
            "the model was trained on this data set, and sequences of training or validation are "
            "among those evaluated: the figures are too good; --split test leaves them out"
        )
    facts = {
        "split": None if wanted == ALL else wanted,
        "own_data": trained is not None,
        "sequences": {
            "found": len(found),
            "evaluated": len(rows),
            "by_split": None if splits is None else dict(Counter(splits)),
        },
    }
    return Chosen(rows, facts, warnings)


def _rows(splits: Sequence[str] | None, wanted: str) -> NDArray[np.int64]:
    if splits is None:
        raise InputError(
            f"--split {wanted} needs a column or an array 'split', which the data do not have; "
            "without --split all their sequences are evaluated"
        )
    rows = np.flatnonzero(np.array(splits) == wanted)
    if not len(rows):
        known = sorted({name for name in splits if name})
        valid = ", ".join([ALL, *known])
        raise InputError(
            f"--split must be one of {valid}, got {shown(wanted)}{near(wanted, [ALL, *known])}"
        )
    return rows


def training_splits(found: Sequences, task: TaskInfo, progress: Progress) -> list[str] | None:
    """The split of each sequence in training, if a model of a task was trained on these data.

    Images are read for their digest only if the targets are those of its data.
    """
    problems = Problems("")
    try:
        numbers = assign_splits(found.found, problems)
    except DataError:
        return None
    training = found.found.targets[numbers == 0]
    if task.sums or problems.count or not len(training):
        return None
    known = (float(training.mean()), float(training.std()), int(found.found.lengths.max()))
    if known != (task.center, task.scale, task.longest):
        return None
    target = None if found.files is None else found.target
    image = ImageFormat((task.shape.rows, task.shape.columns), task.shape.channels)
    try:
        digest = read(found.place, target=target, image=image, progress=progress).digest
    except DataError:
        return None
    return [SPLITS[number] for number in numbers] if digest == task.data.split("/")[0] else None
