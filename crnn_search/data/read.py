"""Read a data set, of either format or in memory, into the cache; open it there the next time."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crnn_search.data.arrays import SequenceData, read_npz
from crnn_search.data.dataset import Dataset, Found, find_stored, store
from crnn_search.data.folder import read_index
from crnn_search.data.images import (
    LARGEST,
    SMALLEST,
    Format,
    ImageFormat,
    Progress,
    Result,
    convert,
    in_threads,
    read_header,
    read_image,
    size_text,
)
from crnn_search.data.problems import Problems
from crnn_search.data.sequence_list import SequenceList, assign_splits
from crnn_search.errors import DataError

VERSION = 1
"""Changes with the files of the cache and with how images are decoded."""

AS_THEY_ARE = ImageFormat()


def read(
    source: Path | SequenceData,
    *,
    target: str | None = None,
    image: ImageFormat = AS_THEY_ARE,
    progress: Progress = lambda what, done, total: None,
) -> Dataset:
    """Read a data set and split it; from the cache, if it is there.

    source: a folder with `metadata.csv`, an `.npz` file, or arrays. target: the column, where a
    folder has several. image: the format to bring all images into.

    Raises:
        DataError: it cannot be used; lists the first ten problems and says how many there are.
    """
    if image.channels not in {None, 1, 3}:
        raise DataError(f"channels must be 1 (grey) or 3 (colour), got {image.channels}")
    if isinstance(source, Path) and source.is_dir():
        return _read_folder(source, target, image, progress)
    if target is not None:
        raise DataError(f"target names a column of metadata.csv, got {target!r} for arrays")
    state = _digest(_npz_state(source) if isinstance(source, Path) else _state(source), image)
    if (stored := find_stored(state)) is not None:
        return stored
    data = read_npz(source) if isinstance(source, Path) else source
    return _read_arrays(data, image, state, progress)


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr((VERSION, *parts)).encode()).hexdigest()


def _npz_state(path: Path) -> str:
    if path.suffix != ".npz":
        raise DataError(f"data must be a folder with metadata.csv, or an .npz file, got {path}")
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def _state(data: SequenceData) -> str:
    digest = hashlib.sha256()
    for value in (data.images, data.lengths, data.targets, data.split, data.group):
        array = np.asarray([] if value is None else value)
        digest.update(f"{array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _read_folder(
    folder: Path, target: str | None, image: ImageFormat, progress: Progress
) -> Dataset:
    problems = Problems(str(folder))
    index = read_index(folder, target, problems)
    state = _digest(index.state, index.target, image)
    if not problems.count and (stored := find_stored(state)) is not None:
        return stored
    splits = assign_splits(index.sequences, problems)
    problems.raise_any()

    def each(what: str, function: Callable[[Path], Result]) -> Iterator[Result]:
        """`function` of each file; raises all problems at the end."""
        names = list(index.files)
        results = in_threads(lambda name: function(folder / name), names, partial(progress, what))
        for name, result in zip(names, results, strict=True):
            if isinstance(result, DataError):
                problems.add(index.files[name], f"{name} {result}")
            else:
                yield result
        problems.raise_any()

    formats = Counter(each("checking images", read_header))
    size, channels = _choose(formats, image, problems)
    pixels = each("decoding images", partial(read_image, size=size, channels=channels))
    found = _found(index.target, formats, index.sequences, index.notes)
    return store(state, index.sequences, splits, pixels, index.entries, found)


def _read_arrays(data: SequenceData, image: ImageFormat, state: str, progress: Progress) -> Dataset:
    problems = Problems(data.name)
    sequences, pixels = data.sequences(), data.pixels()
    splits = assign_splits(sequences, problems)
    problems.raise_any()
    count = int(sequences.lengths.sum())
    before, rows, columns = pixels.shape[2:]
    formats = Counter({((rows, columns), before): count})
    size, channels = _choose(formats, image, problems)

    def frames() -> Iterator[NDArray[np.uint8]]:
        done = 0
        for sequence, length in zip(pixels, sequences.lengths, strict=True):
            for frame in sequence[:length]:
                same = frame.shape == (channels, *size)
                yield frame if same else _convert(frame, size, channels)
            done += int(length)
            progress("decoding images", done, count)

    found = _found("target", formats, sequences, [])
    return store(state, sequences, splits, frames(), np.arange(count), found)


def _convert(frame: NDArray[np.uint8], size: tuple[int, int], channels: int) -> NDArray[np.uint8]:
    picture = Image.fromarray(frame[0] if len(frame) == 1 else np.moveaxis(frame, 0, 2))
    return convert(picture, size, channels)


def _choose(formats: Counter[Format], image: ImageFormat, problems: Problems) -> Format:
    """The format for all images, if none is asked for: the size that most of them have, the larger
    one of two that are as frequent, and colour if one of them is in colour.
    """
    sizes: Counter[tuple[int, int]] = Counter()
    for (size, _), count in formats.items():
        sizes[size] += count
    size = image.size or max(sizes, key=lambda size: (sizes[size], size[0] * size[1], size))
    if not all(SMALLEST <= pixels <= LARGEST for pixels in size):
        problems.fail(
            "",
            f"images are {size_text(size)}, but {SMALLEST} × {SMALLEST} to {LARGEST} × {LARGEST} "
            "are valid; resize them with image: {size: [rows, columns]} in the space, or with "
            "--size in data check",
        )
    return size, image.channels or max(channels for _, channels in formats)


def _found(
    target: str, formats: Counter[Format], sequences: SequenceList, notes: list[str]
) -> Found:
    rows = [[*size, channels, count] for (size, channels), count in sorted(formats.items())]
    drawn = "sequence" if sequences.groups is None else "group"
    return Found(target, rows, drawn if sequences.splits is None else "given", notes)
