"""A picture of some sequences with the prediction after each of their images.

Shapes: `T` time steps, `C` channels, `H` rows, `W` columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from crnn_search.data.images import tile
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


class Row(NamedTuple):
    """A sequence. pixels: its images, uint8 `(T, C, H, W)`. running: the prediction after each.

    caption: what stands beside it.
    """

    pixels: NDArray[np.uint8]
    running: Sequence[float]
    caption: str


def running_sheet(rows: Sequence[Row], formats: Sequence[str] = ("PNG", "JPEG")) -> bytes:
    """A picture with a row for each sequence: its images, predictions below them, and its caption.

    Returns the content of a file in that one of the formats in which it is the smallest.
    """
    columns = min(COLUMNS, max(len(row.pixels) for row in rows))
    row_height = _TILE + _CAPTION + _GAP
    size = (_GAP + columns * (_TILE + _GAP) + _TARGET, _GAP + len(rows) * row_height)
    sheet = Image.new("L" if rows[0].pixels.shape[1] == 1 else "RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for place, row in enumerate(rows):
        top = _GAP + place * row_height
        for column, step in enumerate(_evenly(len(row.pixels), COLUMNS).tolist()):
            left = _GAP + column * (_TILE + _GAP)
            sheet.paste(tile(row.pixels[step], _TILE), (left, top))
            below = (left + _TILE // 2, top + _TILE + 1)
            draw.text(below, _number(row.running[step]), "black", font, anchor="ma")
        beside = (size[0] - _TARGET, top + _TILE // 2)
        draw.text(beside, row.caption, "black", font, anchor="lm")
    return min((_encoded(sheet, name) for name in formats), key=len)


def _encoded(sheet: Image.Image, name: str) -> bytes:
    file = BytesIO()
    sheet.save(file, name)
    return file.getvalue()


def _evenly(count: int, most: int) -> Tensor:
    """At most `most` of `count` places, at equal distances, int64."""
    return torch.linspace(0, count - 1, min(most, count)).round().long()


def _number(value: float) -> str:
    """A number in few letters."""
    if not math.isfinite(value):
        return str(value)
    return f"{value:.1f}" if abs(value) < 1000 else f"{value:.3g}"
