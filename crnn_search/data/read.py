"""Read a data set, of either format or in memory, into the cache; open it there the next time."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crnn_search.data.arrays import SequenceData, read_npz
from crnn_search.data.dataset import Dataset, Found, find_stored, new_folder, store
from crnn_search.data.folder import METADATA, read_index
from crnn_search.data.images import (
    LARGEST,
    SMALLEST,
    Format,
    ImageFormat,
    Progress,
    Result,
    convert_array,
    in_threads,
    read_header,
    read_image,
    size_text,
)
from crnn_search.data.problems import Problems
from crnn_search.data.remote import look_up
from crnn_search.data.sequence_list import A_NUMBER, SequenceList, assign_splits, test_last
from crnn_search.errors import DataError
from crnn_search.storage.location import is_uri

VERSION = 2
"""Changes with the files of the cache and with how images are decoded."""

AS_THEY_ARE = ImageFormat()

REPORTED = 256
"""Images of arrays between two calls of `progress`."""


class _Options(NamedTuple):
    """What `read` was asked for."""

    target: str | None
    image: ImageFormat
    progress: Progress


def read(
    source: str | Path | SequenceData,
    *,
    target: str | None = None,
    image: ImageFormat = AS_THEY_ARE,
    progress: Progress = lambda what, done, total: None,
) -> Dataset:
    """Read a data set and split it; from the cache, if it is there.

    source: a folder with `metadata.csv` or an `.npz` file, as a path or the URI of an object store,
    or arrays. target: the column, where a folder has several. image: the format to bring all images
    into.

    Raises:
        DataError: it cannot be used; lists the first ten problems and says how many there are.
        InputError: it is a URI, but of no object store.
    """
    if image.channels not in {None, 1, 3}:
        raise DataError(f"channels must be 1 (grey) or 3 (colour), got {image.channels}")
    options = _Options(target, image, progress)
    if isinstance(source, SequenceData):
        _check_no_target(target)
        return _read_arrays(source, _digest(_state(source), image), options)
    if is_uri(str(source)):
        return _read_remote(str(source), options)
    return _read_path(Path(source), str(source), options)


def source_files(place: Path, target: str | None = None) -> dict[str, Path]:
    """The files that a data set is read from, by name relative to the parent of `place`.

    place: a folder with `metadata.csv`, or an `.npz` file. target: as in `read`.

    Raises:
        DataError: it is neither, or `metadata.csv` or the name of a file is not valid.
    """
    place = place.resolve()
    if not place.is_dir():
        _npz_state(place)
        return {place.name: place}
    problems = Problems(str(place))
    names = [METADATA, *read_index(place, target, problems).files]
    problems.raise_any()
    return {f"{place.name}/{name}": place / name for name in names}


def _read_remote(uri: str, options: _Options) -> Dataset:
    """Read a data set in an object store, unless it is as it was when it was read before."""
    remote = look_up(uri)
    state = _digest("uri", remote.state, options.target, options.image)
    if (stored := find_stored(state)) is not None:
        return stored
    with new_folder(".download") as folder:
        if (stored := find_stored(state)) is not None:  # by another process meanwhile
            return stored
        path = remote.copy(
            folder,
            options.progress,
            lambda copied, problems: read_index(copied, options.target, problems),
        )
        return _read_path(path, uri, options, state)


def _read_path(path: Path, name: str, options: _Options, state: str | None = None) -> Dataset:
    """Read a folder or a file. name: what messages call it. state: of its source."""
    if path.is_dir():
        return _read_folder(path, name, options, state)
    _check_no_target(options.target)
    state = state or _digest(_npz_state(path), options.image)
    if (stored := find_stored(state)) is not None:
        return stored
    return _read_arrays(read_npz(path, name), state, options)


def _check_no_target(target: str | None) -> None:
    if target is not None:
        raise DataError(f"target names a column of metadata.csv, got {target!r} for arrays")


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr((VERSION, *parts)).encode()).hexdigest()


def _npz_state(path: Path) -> str:
    if path.suffix != ".npz":
        got = path if path.exists() else f"{path}, which does not exist"
        raise DataError(f"data must be a folder with metadata.csv, or an .npz file, got {got}")
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


def _read_folder(folder: Path, name: str, options: _Options, state: str | None) -> Dataset:
    problems = Problems(name)
    index = read_index(folder, options.target, problems)
    state = state or _digest(index.state, index.target, options.image)
    if not problems.count and (stored := find_stored(state)) is not None:
        return stored
    splits = assign_splits(index.sequences, problems)
    problems.raise_any()

    def each(
        what: str, function: Callable[[Path], Result], files: Sequence[str]
    ) -> Iterator[Result]:
        """`function` of each file; raises all problems at the end."""
        progress = partial(options.progress, what)
        results = in_threads(lambda file: function(folder / file), files, progress)
        for file, result in zip(files, results, strict=True):
            if isinstance(result, DataError):
                problems.add(index.files[file], f"{file} {result}")
            else:
                yield result
        problems.raise_any()

    files = list(index.files)
    formats = Counter(each("checking images", read_header, files))
    size, channels = _choose(formats, options.image, problems)
    order, entries = test_last(index.entries, index.sequences.lengths, splits)
    decode = partial(read_image, size=size, channels=channels)
    pixels = each("decoding images", decode, [files[number] for number in order])
    found = _found(index.target, formats, index.sequences, index.notes)
    return store(state, index.sequences, splits, pixels, entries, found)


def _read_arrays(data: SequenceData, state: str, options: _Options) -> Dataset:
    if (stored := find_stored(state)) is not None:
        return stored
    problems = Problems(data.name)
    if data.targets is None:
        problems.fail("targets", f"must be {A_NUMBER} for each sequence, got none")
    sequences, pixels = data.sequences(), data.pixels()
    splits = assign_splits(sequences, problems)
    problems.raise_any()
    count = int(sequences.lengths.sum())
    before, rows, columns = pixels.shape[2:]
    formats = Counter({((rows, columns), before): count})
    size, channels = _choose(formats, options.image, problems)
    order, entries = test_last(np.arange(count), sequences.lengths, splits)
    row_of = np.arange(len(splits)).repeat(sequences.lengths)
    step_of = np.arange(count) - (sequences.lengths.cumsum() - sequences.lengths)[row_of]

    def frames() -> Iterator[NDArray[np.uint8]]:
        for done, image in enumerate(order, start=1):
            yield convert_array(pixels[row_of[image], step_of[image]], size, channels)
            if done % REPORTED == 0 or done == count:
                options.progress("decoding images", done, count)

    found = _found("target", formats, sequences, [])
    return store(state, sequences, splits, frames(), entries, found)


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
