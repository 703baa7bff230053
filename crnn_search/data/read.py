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
    FORMAT,
    IMAGES,
    Dataset,
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
    ImageFormat,
    Progress,
    convert,
    in_threads,
    read_header,
    read_image,
    size_text,
)
from crnn_search.data.problems import Problems
from crnn_search.data.sequence_list import assign_splits
from crnn_search.data.summary import Content, FoundImages
from crnn_search.errors import DataError

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
    if not isinstance(source, SequenceData) and source.is_dir():
        return _read_folder(source, target, image, progress)
    if target is not None:
        raise DataError(f"target names a column of metadata.csv, got {target!r} for arrays")
    state = _array_state(source) if isinstance(source, SequenceData) else _file_state(source)
    state = _digest(state, image)
    found = find_stored(state)
    if found is not None:
        return found
    data = source if isinstance(source, SequenceData) else read_npz(source)
    return _read_arrays(data, image, state, progress)


def _no_progress(what: str, done: int, total: int) -> None:
    pass


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr((FORMAT, *parts)).encode("utf-8", "surrogateescape")).hexdigest()


def _file_state(path: Path) -> str:
    if path.suffix != ".npz":
        raise DataError(f"data must be a folder with metadata.csv, or an .npz file, got {path}")
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    return f"{path.name} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def _array_state(data: SequenceData) -> str:
    arrays = (data.images, data.lengths, data.targets, data.split, data.group)
    return " ".join(array_digest(np.asarray([] if a is None else a)) for a in arrays)


def _read_folder(
    folder: Path, target: str | None, image: ImageFormat, progress: Progress
) -> Dataset:
    problems = Problems(str(folder))
    index = read_index(folder, target, problems)
    state = _digest(index.state, index.target, image)
    if not problems.count and (found := find_stored(state)) is not None:
        return found
    splits = assign_splits(index.sequences, index.where, problems)
    names, images = _read_headers(folder, index, image, problems, progress)

    def decode(name: str) -> NDArray[np.uint8]:
        return read_image(folder / name, images.size, images.channels)

    with new_folder() as cache:
        with ImageWriter(cache / IMAGES) as writer:
            decoded = in_threads(decode, names, partial(progress, "decoding images"))
            for name, pixels in zip(names, decoded, strict=True):
                if isinstance(pixels, DataError):
                    problems.add(row_name(index.files[name]), f"{name} {pixels}")
                else:
                    writer.add(pixels)
        problems.stop_if_any()
        indices = np.array(writer.numbers, np.int32)[index.entries]
        content = Content(index.sequences, index.target, splits, indices, images, index.notes)
        return store(state, cache, content)


def _read_headers(
    folder: Path, index: FolderIndex, image: ImageFormat, problems: Problems, progress: Progress
) -> tuple[list[str], FoundImages]:
    """Check all image files; returns those that can be decoded, and the format for all of them.

    All get the size that most of them have, the larger one of two that are as frequent, and are in
    colour if one of them is.
    """
    names, headers = [], []
    found = in_threads(
        lambda name: read_header(folder / name),
        list(index.files),
        partial(progress, "checking images"),
    )
    for name, header in zip(index.files, found, strict=True):
        if isinstance(header, DataError):
            problems.add(row_name(index.files[name]), f"{name} {header}")
        else:
            names.append(name)
            headers.append(header)
    if not headers:
        problems.stop_if_any()
    sizes = Counter(header.size for header in headers)
    channels = Counter(header.channels for header in headers)
    return names, _choose_format(sizes, channels, image, problems)


def _choose_format(
    sizes: Counter[tuple[int, int]], channels: Counter[int], image: ImageFormat, problems: Problems
) -> FoundImages:
    size = image.size or max(sizes, key=lambda size: (sizes[size], size[0] * size[1], size))
    if not all(SMALLEST <= pixels <= LARGEST for pixels in size):
        problems.add(
            "",
            f"images are {size_text(size)}, but {size_text((SMALLEST, SMALLEST))} to "
            f"{size_text((LARGEST, LARGEST))} are valid; resize them with image: "
            "{size: [rows, columns]}",
        )
        problems.stop_if_any()
    used = image.channels or max(channels)
    return FoundImages(
        size,
        used,
        {size_text(found): count for found, count in sorted(sizes.items())},
        channels.total() - channels[used],
    )


def _read_arrays(data: SequenceData, image: ImageFormat, state: str, progress: Progress) -> Dataset:
    problems = Problems(data.name)
    sequences = data.sequences()
    splits = assign_splits(sequences, lambda row: f"split[{row}]", problems)
    pixels = data.pixels
    count = int(sequences.lengths.sum())
    rows, columns = pixels.shape[3:]
    images = _choose_format(
        Counter({(rows, columns): count}), Counter({pixels.shape[2]: count}), image, problems
    )
    problems.stop_if_any()
    same = pixels.shape[2:] == (images.channels, *images.size)
    with new_folder() as cache:
        with ImageWriter(cache / IMAGES) as writer:
            for row, length in enumerate(sequences.lengths):
                for frame in pixels[row, :length]:
                    writer.add(frame if same else _convert(frame, images))
                progress("decoding images", len(writer.numbers), count)
        indices = np.array(writer.numbers, np.int32)
        return store(state, cache, Content(sequences, "target", splits, indices, images, []))


def _convert(frame: NDArray[np.uint8], images: FoundImages) -> NDArray[np.uint8]:
    picture = Image.fromarray(frame[0] if len(frame) == 1 else np.moveaxis(frame, 0, 2))
    return convert(picture, images.size, images.channels)
