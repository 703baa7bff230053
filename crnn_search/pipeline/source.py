"""Where a run's data come from: MNIST, a data set of the user's own, or the cache."""

from __future__ import annotations

import shutil
from pathlib import Path

from crnn_search.data import mnist
from crnn_search.data.arrays import SequenceData
from crnn_search.data.dataset import Dataset, find, open_dataset
from crnn_search.data.images import ImageFormat, Progress
from crnn_search.data.mnist_sums import MnistSource
from crnn_search.data.own import OwnSource
from crnn_search.data.read import read
from crnn_search.data.task import Source
from crnn_search.errors import InputError
from crnn_search.pipeline.manifest import Manifest
from crnn_search.spaces.file import load_space
from crnn_search.spaces.fitting import fit
from crnn_search.spaces.sections import TaskSpec
from crnn_search.spaces.space import Images, SearchSpace
from crnn_search.storage.files import writing
from crnn_search.storage.location import is_uri, local_path
from crnn_search.storage.run_folder import RunFolder

DATASET = "dataset"
"""The name of an own data set's digest in `data_sha256`."""

KEPT_BYTES = 100_000_000
"""Images of a data set that is stored in a run's folder have less."""


def no_progress(what: str, done: int, total: int) -> None:
    """For whoever shows none."""


def open_source(
    task: TaskSpec,
    data_dir: Path | None = None,
    data: SequenceData | None = None,
    progress: Progress = no_progress,
) -> Source:
    """The data of a new run. MNIST's are not read yet; others are, or are found in the cache.

    data_dir: MNIST's files, None for a download; of an own data set where it is, if that is not
    `task.data`. data: takes the place of both.

    Raises:
        DataError: the data set is not valid.
    """
    if task.data is None:
        return MnistSource(task.max_digits, data_dir)
    return _own(task, _read(task, data_dir, data, progress))


def open_again(
    run: RunFolder,
    data_dir: Path | None = None,
    data: SequenceData | None = None,
    progress: Progress = no_progress,
) -> Source:
    """The data of an existing run: from the cache, from its folder, or read again.

    The others as for `open_source`.

    Raises:
        DataError: the data set is not valid.
        InputError: it is not the one that the run was launched with; or the run cannot be read.
    """
    task = load_space(run.space).task
    if task.data is None:
        return MnistSource(task.max_digits, data_dir)
    digest = Manifest.read(run).data_sha256[DATASET]
    kept = run.data / digest
    dataset = find(digest)
    if dataset is None and kept.is_dir():
        dataset = open_dataset(kept)
    dataset = dataset or _read(task, data_dir, data, progress)
    if dataset.digest != digest:
        raise InputError(
            f"the data in {data_dir or task.data} are not those that the run was launched with, "
            f"which are not in the cache: the digest of their content must be {digest}, got "
            f"{dataset.digest}"
        )
    return _own(task, dataset)


def keep(source: Source, run: RunFolder) -> None:
    """Store a small data set in a run's folder, so that the run can continue anywhere.

    For one that came with a job or from Python, and may be nowhere else tomorrow.

    Raises:
        StorageError: the folder cannot be written.
    """
    if isinstance(source, OwnSource) and source.dataset.images.nbytes < KEPT_BYTES:
        with writing(run.data):
            shutil.copytree(source.dataset.folder, run.data / source.dataset.digest)


def digests(source: Source) -> dict[str, str]:
    """What identifies the data, for the manifest: SHA-256 by name."""
    return {DATASET: source.dataset.digest} if isinstance(source, OwnSource) else dict(mnist.FILES)


def fit_to(source: Source, space: SearchSpace) -> SearchSpace:
    """The space with what it leaves open fitted to the data.

    Raises:
        SpaceError: the data do not fit it.
    """
    if not isinstance(source, OwnSource):
        return space
    info = source.info
    return fit(space, Images(info.shape, info.longest, info.data), source.shortest)


def _read(
    task: TaskSpec, data_dir: Path | None, data: SequenceData | None, progress: Progress
) -> Dataset:
    assert task.data is not None
    size, channels = (task.image.size, task.image.channels) if task.image else (None, None)
    image = ImageFormat(None if size is None else (size[0], size[1]), channels)
    location = str(data_dir or task.data)
    place = location if is_uri(location) else local_path(location)
    return read(data or place, target=task.target, image=image, progress=progress)


def _own(task: TaskSpec, dataset: Dataset) -> OwnSource:
    return OwnSource(dataset, task.name, task.unit, task.longer or "drop")
