"""A picture of a dozen sequences of a data set."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from crnn_search.data.dataset import Dataset
from crnn_search.data.images import tile
from crnn_search.data.sequence_list import SPLITS

SEQUENCES = 12

COLUMNS = 12
"""Images of a sequence that are shown; of a longer one, some at equal distances."""

_TILE = 64
_MARGIN = 8
_CAPTION = 18


def contact_sheet(data: Dataset) -> bytes:
    """A PNG of a dozen sequences, from the lowest to the highest target, with their targets.

    Sequences of the test split are not shown.
    """
    rows = data.rows("train", "validation")
    by_target = rows[data.targets[rows].argsort(kind="stable")]
    chosen = by_target[_evenly(len(rows), SEQUENCES)]
    height = _CAPTION + _TILE + _MARGIN
    size = (COLUMNS * (_TILE + _MARGIN) + _MARGIN, len(chosen) * height + _MARGIN)
    sheet = Image.new("RGB", size, "lightgrey")
    draw = ImageDraw.Draw(sheet)
    for place, row in enumerate(chosen):
        top = _MARGIN + place * height
        draw.text((_MARGIN, top), _caption(data, row), fill="black")
        images = data.table(np.array([row]))[0]
        for column, image in enumerate(images[_evenly(len(images), COLUMNS)]):
            left = _MARGIN + column * (_TILE + _MARGIN)
            sheet.paste(tile(data.images[image], _TILE), (left, top + _CAPTION))
    file = BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _evenly(count: int, most: int) -> NDArray[np.int64]:
    """At most `most` of `count` places, at equal distances."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(np.int64)


def _caption(data: Dataset, row: int) -> str:
    length = int(data.lengths[row])
    images = f"{length:,} image{'s' if length > 1 else ''}"
    shown = f", {COLUMNS} shown" if length > COLUMNS else ""
    return (
        f"{data.found.target[:40]} {data.targets[row]:g}   {images}{shown}   "
        f"{SPLITS[data.splits[row]]}   sequence {str(data.names[row])[:40]}"
    )
