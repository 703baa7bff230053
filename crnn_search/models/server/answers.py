"""Requests to predictions: image files are decoded, checked and predicted together.

Shapes: `C` channels, `H` rows, `W` columns.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crnn_search.data.images import FORMATS, as_picture, size_text
from crnn_search.errors import ImageError, InputError
from crnn_search.models.input_warnings import InputWarning
from crnn_search.models.model import Model, pixels_of
from crnn_search.models.preprocessing import Prepared
from crnn_search.models.server.limits import IMAGES, SEQUENCE_PIXELS, Limits
from crnn_search.text import first_line


class File(NamedTuple):
    """An image file: what the request calls it, and its content."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Work:
    """A request. show: whether it asks for what the network sees."""

    sequences: list[list[File]]
    show: bool = False

    @property
    def images(self) -> int:
        """Images of all its sequences."""
        return sum(map(len, self.sequences))


@dataclass(frozen=True)
class Answer:
    """What is said of a sequence: the prediction after each image.

    seen: what the network sees of each image, PNG files; none unless asked for.
    """

    running: list[float]
    warnings: list[InputWarning]
    seen: list[bytes]


class _Sequence(NamedTuple):
    """A sequence's images as the network takes them."""

    images: list[Prepared]
    warnings: list[InputWarning]
    show: bool


def answer(model: Model, work: Work, limits: Limits) -> list[Answer]:
    """The answer for each sequence of one request.

    Raises:
        InputError: an image cannot be decoded or is too large.
    """
    (found,) = answer_all(model, [work], limits)
    if isinstance(found, InputError):
        raise found
    return found


def answer_all(
    model: Model, requests: Sequence[Work], limits: Limits
) -> list[list[Answer] | InputError]:
    """The answers of each request, or why it is refused; all are predicted together."""
    decoded = [_decoded(model, work, limits) for work in requests]
    sequences = [one for found in decoded if isinstance(found, list) for one in found]
    answers = iter(_predicted(model, sequences))
    return [
        [next(answers) for _ in found] if isinstance(found, list) else found for found in decoded
    ]


def longest(model: Model) -> int:
    """How many images a sequence may have: as many as memory allows, and as those of training."""
    shape = model.task.shape
    memory = SEQUENCE_PIXELS // (shape.rows * shape.columns)
    return min(IMAGES, max(model.predictor.info.longest, memory))


def _decoded(model: Model, work: Work, limits: Limits) -> list[_Sequence] | InputError:
    try:
        _check_lengths(model, work)
        _check_sizes(work, limits)
        return [_sequence(model, files, show=work.show) for files in work.sequences]
    except InputError as error:
        return error


def _check_lengths(model: Model, work: Work) -> None:
    """Check the lengths of sequences. Raises InputError: one is too long."""
    most, found = longest(model), max(map(len, work.sequences))
    if found > most:
        size = size_text(model.task.shape[1:])
        raise InputError(
            f"a sequence must have at most {most:,} images, which become {size} pixels each; got "
            f"{found:,}"
        )


def _check_sizes(work: Work, limits: Limits) -> None:
    """Check each image's format and size, before any is decoded.

    Raises:
        ImageError: one is no image or too large, or all together are.
    """
    total = 0
    for file in (file for files in work.sequences for file in files):
        pixels = _pixels_of(file)
        total += pixels
        if pixels > limits.image_pixels:
            raise ImageError(
                f"{file.name} must have at most {limits.image_pixels:,} pixels, got {pixels:,}"
            )
        if total > limits.request_pixels:
            raise ImageError(
                f"the images of a request must have at most {limits.request_pixels:,} pixels in "
                f"all; it has more up to {file.name}"
            )


def _pixels_of(file: File) -> int:
    valid = f"give an image file: {', '.join(FORMATS)}"
    if not file.content:
        raise ImageError(f"{file.name} is empty; {valid}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow; too large ones are refused here
            with Image.open(io.BytesIO(file.content), formats=FORMATS) as image:
                return image.width * image.height
    except Exception as error:  # decoders raise nearly anything for a file that is damaged
        reason = first_line(error).partition(" <_io")[0]
        raise ImageError(f"{file.name} cannot be decoded: {reason}; {valid}") from error


def _sequence(model: Model, files: Sequence[File], *, show: bool) -> _Sequence:
    images = [model.preprocessing.read(file.content, file.name) for file in files]
    return _Sequence(images, model.warnings(images), show)


def _predicted(model: Model, sequences: Sequence[_Sequence]) -> Iterator[Answer]:
    """The answers for sequences, in their order."""
    found = model.predict_pixels([pixels_of(sequence.images) for sequence in sequences])
    for running, (images, warnings_, show) in zip(found, sequences, strict=True):
        seen = [_png(image.pixels) for image in images] if show else []
        yield Answer(running, warnings_, seen)


def _png(image: NDArray[np.uint8]) -> bytes:
    """An image, uint8 `(C, H, W)`, as a PNG file."""
    buffer = io.BytesIO()
    as_picture(image).save(buffer, "PNG")
    return buffer.getvalue()
