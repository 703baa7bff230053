"""Image files and arrays in the one format that a data set has: uint8, one size, grey or colour."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from crnn_search.errors import DataError
from crnn_search.text import first_line

SMALLEST, LARGEST = 8, 256
"""Rows and columns of an image, after resizing."""

MOST_PIXELS = 64_000_000
"""Pixels of an image file; a larger one is taken for a mistake."""

ORIENTATION = ExifTags.Base.Orientation

_GREY = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N")

_CHUNK = 64
"""Files that a thread reads at once."""

Progress = Callable[[str, int, int], None]
"""Called with what is done, as `decoding images`, the number that is done, and of all."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class ImageFormat:
    """The format of a data set's images; None: as the files are.

    size: rows and columns. channels: 1, grey, or 3, colour.

    Raises:
        DataError: a value is not valid.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None and not _valid_size(self.size):
            raise DataError(
                f"size must be [rows, columns], each {SMALLEST} to {LARGEST}, got {self.size!r}"
            )
        if self.size is not None:
            object.__setattr__(self, "size", tuple(self.size))
        if self.channels is not None and (
            type(self.channels) is not int or self.channels not in {1, 3}
        ):
            raise DataError(f"channels must be 1 (grey) or 3 (colour), got {self.channels!r}")


def _valid_size(size: object) -> bool:
    return (
        isinstance(size, Sequence)
        and len(size) == 2
        and all(type(pixels) is int and SMALLEST <= pixels <= LARGEST for pixels in size)
    )


@dataclass(frozen=True)
class Header:
    """What an image file says of itself: rows and columns as it is shown, and its channels."""

    size: tuple[int, int]
    channels: int


def size_text(size: Sequence[int]) -> str:
    """Rows and columns, as `28 × 28`."""
    return f"{size[0]} × {size[1]}"


def read_header(path: Path) -> Header:
    """Read an image file's header, and check that it can be used.

    Raises:
        DataError: it cannot be decoded, is animated or too large, or its range is unknown.
    """
    with _decoding(), Image.open(path) as image:
        columns, rows = image.size
        # A camera's MPO file is a photograph with previews behind it.
        if getattr(image, "is_animated", False) and image.format != "MPO":
            raise DataError("has several frames; save each as a file of its own")
        if columns * rows > MOST_PIXELS:
            raise DataError(
                f"has {rows:,} × {columns:,} pixels; {MOST_PIXELS:,} are the most that are read"
            )
        if image.mode in {"I", "F"}:
            raise DataError("has pixels of 32 bits, whose range is unknown; save it with 8 or 16")
        turned = "exif" in image.info and image.getexif().get(ORIENTATION, 1) >= 5
        return Header(
            (columns, rows) if turned else (rows, columns), 1 if image.mode in _GREY else 3
        )


def read_image(path: Path, size: tuple[int, int], channels: int) -> NDArray[np.uint8]:
    """An image file as uint8 `(C, H, W)`, turned as its EXIF data say.

    Raises:
        DataError: it cannot be decoded.
    """
    with _decoding(), Image.open(path) as image:
        return convert(ImageOps.exif_transpose(image), size, channels)


def convert(image: Image.Image, size: tuple[int, int], channels: int) -> NDArray[np.uint8]:
    """An image of 8 or 16 bits as uint8 `(C, H, W)`.

    Transparent pixels become white. Another size is resized, with the Lanczos filter and without
    keeping its proportions.
    """
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.float64)
        image = Image.fromarray((values / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers)
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


@contextlib.contextmanager
def _decoding() -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # decoders raise nearly anything for a file that is damaged
        raise DataError(f"cannot be decoded: {first_line(error)}") from error


def in_threads(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    progress: Callable[[int, int], None],
) -> Iterator[Result | DataError]:
    """`function` of each item, in their order; a `DataError` that it raises is a result.

    Few results wait at a time, so that images need not fit into memory. Pillow's decoders release
    Python's global lock.
    """

    def chunk(start: int) -> list[Result | DataError]:
        return [_attempt(function, item) for item in items[start : start + _CHUNK]]

    threads = min(os.cpu_count() or 1, 16)
    waiting: deque[Future[list[Result | DataError]]] = deque()
    starts = iter(range(0, len(items), _CHUNK))
    done = 0
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        # MOST_PIXELS is below the number that Pillow warns of.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        while True:
            for start in islice(starts, 2 * threads - len(waiting)):
                waiting.append(pool.submit(chunk, start))
            if not waiting:
                return
            results = waiting.popleft().result()
            yield from results
            done += len(results)
            progress(done, len(items))


def _attempt(function: Callable[[Item], Result], item: Item) -> Result | DataError:
    try:
        return function(item)
    except DataError as error:
        return error
