"""A picture of images as a network sees them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from crnn_search.data.images import tile
from crnn_search.models.preprocessing import Prepared

COLUMNS = 8

_TILE, _GAP, _CAPTION = 112, 8, 18


def seen_sheet(images: Sequence[Prepared]) -> bytes:
    """A PNG with each image's pixels, enlarged, and its name."""
    columns = min(COLUMNS, len(images))
    rows = math.ceil(len(images) / columns)
    width = _GAP + columns * (_TILE + _GAP)
    sheet = Image.new("RGB", (width, _GAP + rows * (_TILE + _CAPTION + _GAP)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, image in enumerate(images):
        left = _GAP + number % columns * (_TILE + _GAP)
        top = _GAP + number // columns * (_TILE + _CAPTION + _GAP)
        sheet.paste(tile(image.pixels, _TILE), (left, top))
        draw.text((left, top + _TILE + 1), _caption(image.name, font), "black", font)
    file = BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _caption(name: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """The end of a file's name that fits below a tile."""
    text = Path(name).name
    while font.getlength(text) > _TILE:
        text = f"…{text.lstrip('…')[1:]}"
    return text
