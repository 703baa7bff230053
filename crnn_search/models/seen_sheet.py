"""A picture of images as a network sees them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

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
        sheet.paste(_tile(image), (left, top))
        draw.text((left, top + _TILE + 1), _caption(image.name, font), "black", font)
    file = BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _tile(image: Prepared) -> Image.Image:
    pixels = image.pixels[0] if len(image.pixels) == 1 else np.moveaxis(image.pixels, 0, 2)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    scale = _TILE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _caption(name: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """The end of a file's name that fits below a tile."""
    text = Path(name).name
    while font.getlength(text) > _TILE:
        text = f"…{text.lstrip('…')[1:]}"
    return text
