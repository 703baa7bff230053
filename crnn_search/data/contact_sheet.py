"""A picture of a dozen sequences of a data set."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw

from crnn_search.data.dataset import Dataset
from crnn_search.data.sequence_list import SPLITS

SEQUENCES = 12
COLUMNS = 12
"""Images of a sequence that are shown; of a longer one, some at equal distances."""

_TILE = 64
_MARGIN = 8
_TEXT_HEIGHT = 18


def contact_sheet(dataset: Dataset) -> bytes:
    """A PNG of a dozen sequences, from the lowest to the highest target, with their targets.

    Sequences of the test split are not shown.
    """
    rows = dataset.rows("train", "validation")
    by_target = rows[dataset.targets[rows].argsort(kind="stable")]
    chosen = by_target[np.unique(np.linspace(0, len(rows) - 1, SEQUENCES).round().astype(int))]
    width = COLUMNS * (_TILE + _MARGIN) + _MARGIN
    height = _TEXT_HEIGHT + _TILE + _MARGIN
    sheet = Image.new("RGB", (width, len(chosen) * height + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for place, row in enumerate(chosen):
        top = _MARGIN + place * height
        draw.text((_MARGIN, top), _caption(dataset, int(row)), fill="black")
        images = dataset.table(np.array([row]))[0]
        shown = np.linspace(0, len(images) - 1, min(COLUMNS, len(images))).round().astype(int)
        for column, image in enumerate(images[shown]):
            left = _MARGIN + column * (_TILE + _MARGIN)
            tile = _tile(dataset.images[image])
            sheet.paste(tile, (left, top + _TEXT_HEIGHT))
            corner = (left - 1, top + _TEXT_HEIGHT - 1)
            draw.rectangle((*corner, corner[0] + tile.width + 1, corner[1] + tile.height + 1), outline="grey")
    file = BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _caption(dataset: Dataset, row: int) -> str:
    length, split = dataset.lengths[row], SPLITS[dataset.splits[row]]
    images = f"{length:,} image{'s' if length > 1 else ''}"
    shown = f", {COLUMNS} shown" if length > COLUMNS else ""
    name = str(dataset.names[row])[:40]
    target = dataset.summary.target[:40]
    return f"{target} {dataset.targets[row]:g}   {images}{shown}   {split}   sequence {name}"


def _tile(image: np.ndarray) -> Image.Image:
    """An image, uint8 `(C, H, W)`, as large as a tile allows."""
    pixels = image[0] if len(image) == 1 else np.moveaxis(image, 0, 2)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    scale = _TILE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
