"""Image files and arrays in the one format of a data set: uint8, one size, grey or colour."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from crnn_search.errors import DataError
from crnn_search.text import first_line

SMALLEST, LARGEST = 8, 256
"""Rows and columns of an image, after resizing."""

MOST_PIXELS = Image.MAX_IMAGE_PIXELS or 0
"""Pixels of an image file; Pillow takes a larger one for an attack."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Pillow's decoders of what a stranger sends; others start programs, or are rarely tested."""

_GREY = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N")

_PART, _IN_MEMORY = 16, 256
"""Images that a thread decodes at once, since small ones are quick; images in memory at a time."""

Progress = Callable[[str, int, int], None]
"""Called with what is done, as `decoding images`, the number that is done, and of all."""

Format = tuple[tuple[int, int], int]
"""The size of an image, rows and columns, and its channels, 1 or 3."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class ImageFormat(NamedTuple):
    """The format of a data set's images; None: as the files are.

    size: rows and columns, each 8 to 256. channels: 1, grey, or 3, colour.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None


def size_text(size: Sequence[int]) -> str:
    """Rows and columns, as `28 × 28`."""
    return f"{size[0]} × {size[1]}"


def read_header(source: Path | bytes) -> Format:
    """The format of an image file, or of its content, as it is shown.

    Raises:
        DataError: it cannot be decoded, is animated or too large, or its range is unknown.
    """
    with opened(source) as image:
        if has_several(image):
            raise DataError("has several frames; save each as a file of its own")
        if image.mode in {"I", "F"}:
            raise DataError("has pixels of 32 bits, whose range is unknown; save it with 8 or 16")
        columns, rows = image.size
        # Pillow turns the size of a TIFF file itself.
        turned = "exif" in image.info and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return (columns, rows) if turned else (rows, columns), 1 if image.mode in _GREY else 3


def has_several(image: Image.Image) -> bool:
    """Whether there is more than one picture in it. A phone's MPO file is one, with previews."""
    return bool(getattr(image, "is_animated", False)) and image.format != "MPO"


def read_image(source: Path | bytes, size: Sequence[int], channels: int) -> NDArray[np.uint8]:
    """An image file, or its content, as uint8 `(C, H, W)`, turned as its EXIF data say.

    Raises:
        DataError: it cannot be decoded.
    """
    with opened(source) as image:
        image.load()  # turns a TIFF file; what follows would turn it again
        return convert(ImageOps.exif_transpose(image), size, channels)


def convert(image: Image.Image, size: Sequence[int], channels: int) -> NDArray[np.uint8]:
    """An image of 8 or 16 bits as uint8 `(C, H, W)`.

    Transparent pixels become white. An image of another size is resized with the Lanczos filter;
    its proportions are not kept.
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


def convert_array(
    pixels: NDArray[np.uint8], size: Sequence[int], channels: int
) -> NDArray[np.uint8]:
    """An image, `(C, H, W)`, as `convert` gives it; as it is if it has that format."""
    if pixels.shape == (channels, *size):
        return pixels
    return convert(as_picture(pixels), size, channels)


def as_picture(pixels: NDArray[np.uint8]) -> Image.Image:
    """Pillow's image of pixels, uint8 `(C, H, W)`."""
    layout = pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, 2)
    return Image.fromarray(np.ascontiguousarray(layout))


def tile(pixels: NDArray[np.uint8], side: int) -> Image.Image:
    """An image, uint8 `(C, H, W)`, as large as a square of `side` pixels allows."""
    picture = as_picture(pixels)
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


@contextlib.contextmanager
def opened(source: Path | bytes) -> Iterator[Image.Image]:
    """Pillow's image of a file, or of its content, which must be in one of `FORMATS`.

    Raises:
        DataError: it, or what is done with it, fails, or it has too many pixels.
    """
    try:
        # Given a path, Pillow 13 reads a turned, uncompressed TIFF file wrongly.
        file = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
        formats = FORMATS if isinstance(source, bytes) else None
        with file, Image.open(file, formats=formats) as image:
            yield image
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"has more than {MOST_PIXELS:,} pixels; make it smaller") from error
    except Exception as error:  # decoders raise nearly anything for a file that is damaged
        raise DataError(f"cannot be decoded: {first_line(error)}") from error


def in_threads(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    progress: Callable[[int, int], None],
) -> Iterator[Result | DataError]:
    """`function` of each item, in their order; a `DataError` that it raises is a result."""

    def attempt(item: Item) -> Result | DataError:
        try:
            return function(item)
        except DataError as error:
            return error

    def part(start: int) -> list[Result | DataError]:
        return [attempt(item) for item in items[start : start + _PART]]

    Image.init()  # Pillow's own loading of its formats is not safe if threads open images meanwhile
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        for start in range(0, len(items), _IN_MEMORY):
            stop = min(start + _IN_MEMORY, len(items))
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                parts = list(pool.map(part, range(start, stop, _PART)))
            yield from chain.from_iterable(parts)
            progress(stop, len(items))
