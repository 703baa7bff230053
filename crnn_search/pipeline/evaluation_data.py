"""What is evaluated: labelled sequences of the user's, or the test sequences of MNIST.

Shapes: `S` sequences, `T` time steps, `C` channels, `H` rows, `W` columns.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crnn_search.data import mnist
from crnn_search.data.digits import MEAN_DIGIT, TRAINING_IMAGES
from crnn_search.data.folder import METADATA
from crnn_search.data.images import Progress
from crnn_search.data.mnist_sums import MnistSource
from crnn_search.data.sequence_files import Place, Sequences, open_sequences
from crnn_search.data.sequences import SequenceTable
from crnn_search.errors import InputError
from crnn_search.models.model import Model
from crnn_search.models.sequence_images import ArrayImages, Images, images_of
from crnn_search.pipeline.evaluation_split import Chosen, choose
from crnn_search.results import scores
from crnn_search.storage.location import is_uri, local_path

MNIST = "mnist"
"""The word for MNIST's own files."""


@dataclass(frozen=True)
class Options:
    """What is evaluated. target: the column. split: `all` or one of the data's splits, None: `test`
    of the model's own data set, else all. data_dir: MNIST's four files, for the data `mnist`.
    picture: draw the worst sequences.
    """

    target: str | None = None
    split: str | None = None
    data_dir: Path | None = None
    picture: bool = False


@dataclass(frozen=True)
class Labelled:
    """Sequences that are scored. table: its indices are used only without groups. names: of the
    sequences. baselines: what is predicted without images, by name, `(S,)`. facts: entries of the
    figures. warnings: what makes them doubtful.
    """

    table: SequenceTable
    names: list[str]
    images: Images
    baselines: dict[str, Tensor]
    facts: dict[str, Any]
    warnings: list[str]


@contextlib.contextmanager
def open_labelled(
    model: Model, data: Place, options: Options, progress: Progress
) -> Iterator[Labelled]:
    """The sequences that a model is evaluated on, for a block. Raises what `evaluate` does."""
    if _is_mnist(data, model):
        yield _mnist(model, data, options)
        return
    if options.data_dir is not None:
        raise InputError(
            f"--data-dir is for the data {MNIST!r} of a model of digits, got {options.data_dir} "
            f"with {name_of(data)}"
        )
    with open_sequences(data, model.task, target=options.target, progress=progress) as found:
        yield _own(model, found, choose(found, model.task, options.split, progress))


def name_of(data: Place) -> str:
    """What messages call the data."""
    return str(data) if isinstance(data, str | Path) else data.name


def _is_mnist(data: Place, model: Model) -> bool:
    """Whether data are MNIST's own files, and a model's."""
    if not model.task.sums or not isinstance(data, str | Path) or is_uri(str(data)):
        return False
    folder = local_path(data)
    files = (folder / f"{name}{end}" for name in mnist.FILES for end in ("", ".gz"))
    return str(data) == MNIST or (
        not (folder / METADATA).exists() and any(path.is_file() for path in files)
    )


def _mnist(model: Model, data: Place, options: Options) -> Labelled:
    """The test sequences that a run's report has."""
    if options.target is not None:
        raise InputError(f"--target names a column of {METADATA}, got {options.target} for MNIST")
    if options.split not in {None, "test"}:
        raise InputError(
            f"--split must be test for MNIST, whose other images were trained on, got "
            f"{options.split}"
        )
    named = None if str(data) == MNIST else local_path(str(data))
    task = MnistSource(model.task.longest, named or options.data_dir).load(test=True)
    table, pixels = task.testing_table(), task.images.numpy()
    indices, lengths = table.indices.numpy(), table.lengths.numpy()

    def images(rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        found: NDArray[np.uint8] = pixels[indices[rows, : lengths[rows].max()]]
        return found

    facts = {
        "target": model.task.target, "split": "test", "own_data": True,
        "sequences": {"found": len(table), "evaluated": len(table), "by_split": None},
        "images": len(pixels) - TRAINING_IMAGES, "groups": None,
    }  # fmt: skip
    return Labelled(
        table,
        [str(row) for row in range(len(table))],
        ArrayImages(model, lengths, images, checked=False),
        scores.digit_baselines(task.known_table().targets, table, model.task.longest),
        facts,
        [],
    )


def _own(model: Model, found: Sequences, chosen: Chosen) -> Labelled:
    """Labelled sequences of the user's."""
    rows, task, warnings = chosen.rows, model.task, [*found.notes, *chosen.warnings]
    groups = torch.from_numpy(found.found.group_numbers()[rows].astype(np.int64))
    lengths = torch.from_numpy(found.found.lengths[rows])
    targets = torch.from_numpy(found.found.targets[rows])
    table = SequenceTable(torch.zeros(len(rows), 1, dtype=torch.int32), lengths, targets, groups)
    count = int(lengths.sum())
    if found.files is not None:
        files = [found.files[row] for row in rows]
        count = len({path for some in files for path in some})
        if found.found.groups is None and (shared := _shared(files)):
            warnings.append(
                f"{shared:,} image files are in more than one sequence: intervals may be too narrow"
            )
    if task.sums:
        known = torch.tensor([MEAN_DIGIT], dtype=torch.float64)
        baselines = scores.digit_baselines(known, table, task.longest)
    else:
        baselines = {"mean_guess": torch.full((len(rows),), task.center, dtype=torch.float64)}
    facts = {
        **chosen.facts, "target": found.target, "images": count,
        "groups": len(groups.unique()),
    }  # fmt: skip
    names = [found.found.names[row] for row in rows]
    return Labelled(table, names, images_of(model, found, rows), baselines, facts, warnings)


def _shared(files: list[list[Path]]) -> int:
    """How many files are in more than one sequence."""
    counts = Counter(path for some in files for path in set(some))
    return sum(count > 1 for count in counts.values())
