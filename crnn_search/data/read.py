"""Read a data set, of either format or in memory, into the cache; open it there the next time."""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crnn_search.data.arrays import SequenceData, read_npz
from crnn_search.data.dataset import (
    IMAGES,
    Dataset,
    Found,
    ImageWriter,
    array_digest,
    find_stored,
    new_folder,
    store,
)
from crnn_search.data.folder import FolderIndex, read_index, row_name
from crnn_search.data.images import (
    LARGEST,
    SMALLEST,
    Format,
    ImageFormat,
    Progress,
    convert,
    in_threads,
    read_header,
    read_image,
    size_text,
)
from crnn_search.data.problems import Problems
from crnn_search.data.sequence_list import SequenceList, assign_splits
from crnn_search.errors import DataError

FORMAT = 1
"""Changes with the files of the cache and with how images are decoded."""

AS_THEY_ARE = ImageFormat()


def read(
    source: Path | SequenceData,
    *,
    target: str | None = None,
    image: ImageFormat = AS_THEY_ARE,
    progress: Progress | None = None,
) -> Dataset:
    """Read a data set and split it; from the cache, if it is there.

    source: a folder with `metadata.csv`, an `.npz` file, or arrays. target: the column, where a
    folder has several. image: the format to bring all images into.

    Raises:
        DataError: it cannot be used; lists the first ten problems and says how many there are.
    """
    progress = progress or _no_progress
    if isinstance(source, Path) and source.is_dir():
        return _read_folder(source, target, image, progress)
    if target is not None:
        raise DataError(f"target names a column of metadata.csv, got {target!r} for arrays")
    state = _array_state(source) if isinstance(source, SequenceData) else _npz_state(source)
    state = _digest(state, image)
    found = find_stored(state)
    if found is not None:
        return found
    data = source if isinstance(source, SequenceData) else read_npz(source)
    return _read_arrays(data, image, state, progress)


def _no_progress(what: str, done: int, total: int) -> None:
    pass


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr((FORMAT, *parts)).encode()).hexdigest()


def _npz_state(path: Path) -> str:
    if path.suffix != ".npz":
        raise DataError(f"data must be a folder with metadata.csv, or an .npz file, got {path}")
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def _array_state(data: SequenceData) -> str:
    arrays = (data.images, data.lengths, data.targets, data.split, data.group)
    return " ".join(array_digest(np.asarray([] if a is None else a)) for a in arrays)


def _read_folder(
    folder: Path, target: str | None, image: ImageFormat, progress: Progress
) -> Dataset:
    problems = Problems(str(folder))
    index = read_index(folder, target, problems)
    state = _digest(index.state, index.target, image)
    if not problems.count and (stored := find_stored(state)) is not None:
        return stored
    splits = assign_splits(index.sequences, problems)
    formats = _read_headers(folder, index, problems, progress)
    found = _choose(formats, image, problems, index.sequences, index.target, index.notes)

    def decode(name: str) -> NDArray[np.uint8]:
        return read_image(folder / name, found.size, found.channels)

    with new_folder() as new, ImageWriter(new / IMAGES) as writer:
        decoded = in_threads(decode, list(index.files), partial(progress, "decoding images"))
        for (name, row), pixels in zip(index.files.items(), decoded, strict=True):
            if isinstance(pixels, DataError):
                problems.add(row_name(row), f"{name} {pixels}")
            else:
                writer.add(pixels)
        problems.raise_any()
        indices = writer.close()[index.entries]
        return store(new, state, index.sequences, splits, indices, found)


def _read_headers(
    folder: Path, index: FolderIndex, problems: Problems, progress: Progress
) -> Counter[Format]:
    """Check all image files; returns how many have which size and channels."""
    headers = in_threads(
        lambda name: read_header(folder / name),
        list(index.files),
        partial(progress, "checking images"),
    )
    formats: Counter[Format] = Counter()
    for (name, row), header in zip(index.files.items(), headers, strict=True):
        if isinstance(header, DataError):
            problems.add(row_name(row), f"{name} {header}")
        else:
            formats[header] += 1
    problems.raise_any()
    return formats


def _choose(
    formats: Counter[Format],
    image: ImageFormat,
    problems: Problems,
    sequences: SequenceList,
    target: str,
    notes: list[str],
) -> Found:
    """The format for all images, as asked for or else: the size that most have, the larger one of
    two that are as frequent, and colour if one of them is in colour.
    """
    sizes: Counter[tuple[int, int]] = Counter()
    for (size, _), count in formats.items():
        sizes[size] += count
    size = image.size or max(sizes, key=lambda size: (sizes[size], size[0] * size[1], size))
    if not all(SMALLEST <= pixels <= LARGEST for pixels in size):
        problems.add(
            "",
            f"images are {size_text(size)}, but {size_text((SMALLEST, SMALLEST))} to "
            f"{size_text((LARGEST, LARGEST))} are valid; resize them with image: "
            "{size: [rows, columns]}",
        )
    problems.raise_any()
    channels = image.channels or max(channels for _, channels in formats)
    drawn = "sequence" if sequences.groups is None else "group"
    return Found(
        target=target,
        size=list(size),
        channels=channels,
        sizes={size_text(before): count for before, count in sorted(sizes.items())},
        recoloured=sum(count for (_, before), count in formats.items() if before != channels),
        split_by=drawn if sequences.splits is None else "given",
        notes=notes,
    )


def _read_arrays(data: SequenceData, image: ImageFormat, state: str, progress: Progress) -> Dataset:
    problems = Problems(data.name)
    sequences, pixels = data.sequences(), data.pixels()
    splits = assign_splits(sequences, problems)
    channels, rows, columns = pixels.shape[2:]
    count = int(sequences.lengths.sum())
    formats = Counter({((rows, columns), channels): count})
    found = _choose(formats, image, problems, sequences, "target", [])
    same = pixels.shape[2:] == (found.channels, *found.size)
    with new_folder() as new, ImageWriter(new / IMAGES) as writer:
        for row, length in enumerate(sequences.lengths):
            for frame in pixels[row, :length]:
                writer.add(frame if same else _convert(frame, found))
            progress("decoding images", len(writer.numbers), count)
        return store(new, state, sequences, splits, writer.close(), found)


def _convert(frame: NDArray[np.uint8], found: Found) -> NDArray[np.uint8]:
    picture = Image.fromarray(frame[0] if len(frame) == 1 else np.moveaxis(frame, 0, 2))
    return convert(picture, found.size, found.channels)
