"""A picture of some sequences with the prediction after each of their images.

Shapes: `S` sequences, `T` time steps, `I` images of a data set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from crnn_search.data.sequences import SequenceTable

SEQUENCES = 12

COLUMNS = 12
"""Images of a sequence that are shown; of a longer one, some at equal distances."""

_TILE = 56
_GAP = 4
_CAPTION = 16
_TARGET = 90


def chosen(table: SequenceTable) -> SequenceTable:
    """A dozen sequences of a table, from short to long ones, always the same."""
    by_length = table.lengths.argsort(stable=True)
    return table.take(by_length[_evenly(len(table), SEQUENCES)])


def running_sheet(
    images: Tensor,
    table: SequenceTable,
    running: Tensor,
    captions: Sequence[str] | None = None,
    formats: Sequence[str] = ("PNG", "JPEG"),
) -> bytes:
    """A picture with a row for each sequence: its images, predictions below them, and its target.

    Returns the content of a file in that one of the formats in which it is the smallest.

    images: uint8 `(I, C, H, W)`, on the CPU. table: `S` sequences. running: the prediction after
    each image, float `(S, T)`; NaN beyond a sequence's end. captions: what stands beside each
    sequence; by default its target.
    """
    captions = captions or [f"true {target:.4g}" for target in table.targets.tolist()]
    columns = min(COLUMNS, int(table.lengths.max()))
    row_height = _TILE + _CAPTION + _GAP
    size = (_GAP + columns * (_TILE + _GAP) + _TARGET, _GAP + len(table) * row_height)
    sheet = Image.new("L" if images.shape[1] == 1 else "RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for row in range(len(table)):
        top = _GAP + row * row_height
        steps = _evenly(int(table.lengths[row]), COLUMNS)
        for column, step in enumerate(steps.tolist()):
            left = _GAP + column * (_TILE + _GAP)
            sheet.paste(_tile(images[int(table.indices[row, step])]), (left, top))
            below = (left + _TILE // 2, top + _TILE + 1)
            draw.text(below, _number(running[row, step]), "black", font, anchor="ma")
        beside = (size[0] - _TARGET, top + _TILE // 2)
        draw.text(beside, captions[row], "black", font, anchor="lm")
    return min((_encoded(sheet, name) for name in formats), key=len)


def _encoded(sheet: Image.Image, name: str) -> bytes:
    file = BytesIO()
    sheet.save(file, name)
    return file.getvalue()


def _evenly(count: int, most: int) -> Tensor:
    """At most `most` of `count` places, at equal distances, int64."""
    return torch.linspace(0, count - 1, min(most, count)).round().long()


def _number(value: Tensor) -> str:
    """A number in few letters."""
    number = value.item()
    if not math.isfinite(number):
        return str(number)
    return f"{number:.1f}" if abs(number) < 1000 else f"{number:.3g}"


def _tile(image: Tensor) -> Image.Image:
    """An image, uint8 `(C, H, W)`, in the size of a tile."""
    pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
    picture = Image.fromarray(pixels.contiguous().numpy())
    scale = _TILE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return picture.resize(size, method)
