"""Test sequences as pictures: in a page as strips of images, for Markdown as one sheet."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from crnn_search.results.formatting import number
from crnn_search.results.page.document import Picture, Strip
from crnn_search.results.scored import WINNER, Scored, Shown
from crnn_search.storage.files import atomic_write, writing

STRIP = 8
"""Images of a strip, at most: more would not fit on a phone."""

CELL, TITLE, LINE, GAP = 40, 180, 16, 6
"""Pixels of a sheet: an image's side, the width of titles, the height of a text, a gap."""


def pictures(shown: Shown, scored: Scored) -> list[Picture]:
    """Each sequence with the exported model's running prediction under its images."""
    found = []
    for row, steps, values, pixels in _sequences(shown):
        length = int(scored.table.lengths[row])
        texts = [_rounded(value, scored) for value in values]
        truth, final = _result(scored, row)
        some = "" if len(steps) == length else f", {len(steps)} of {length} images"
        title = f"true {truth}, predicted {final}{some}"
        places = range(0, len(steps), STRIP)
        strips = [Strip(_png(pixels[at : at + STRIP]), texts[at : at + STRIP]) for at in places]
        found.append(Picture(strips, title, f"a sequence of {length} images"))
    return found


def write_sheet(path: Path, shown: Shown, scored: Scored) -> None:
    """Write all of them as one image file.

    Raises:
        StorageError: it cannot be written.
    """
    rows = list(_sequences(shown))
    widest = max(len(steps) for _, steps, _, _ in rows)
    height = CELL + LINE + GAP
    sheet = Image.new("RGB", (TITLE + widest * (CELL + 2), len(rows) * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for place, (row, _, values, pixels) in enumerate(rows):
        truth, final = _result(scored, row)
        top = place * height
        draw.text((4, top + CELL // 3), f"true {truth}, predicted {final}", "black", font)
        for step, (value, image) in enumerate(zip(values, pixels, strict=True)):
            left = TITLE + step * (CELL + 2)
            sheet.paste(_image(image).resize((CELL, CELL)), (left, top))
            draw.text((left + 2, top + CELL + 1), _rounded(value, scored), "black", font)
    with writing(path):
        path.parent.mkdir(exist_ok=True)
        with atomic_write(path) as temporary:
            sheet.save(temporary, format="PNG")


def _sequences(
    shown: Shown,
) -> Iterator[tuple[int, list[int], list[float], NDArray[np.uint8]]]:
    """Row, steps, running predictions and pixels `(N, C, H, W)` of each sequence."""
    start = 0
    for row, count in zip(shown.rows.tolist(), shown.counts.tolist(), strict=True):
        part = slice(start, start + count)
        yield (
            row, shown.steps[part].tolist(), shown.running[part].tolist(),
            shown.pixels[part].numpy(),
        )  # fmt: skip
        start += count


def _result(scored: Scored, row: int) -> tuple[str, str]:
    """The target and the exported model's prediction of a sequence."""
    truth = float(scored.table.targets[row])
    text = f"{truth:,.0f}" if truth.is_integer() else _rounded(truth, scored)
    return text, _rounded(float(scored.predictions[WINNER][0, row]), scored)


def _rounded(value: float, scored: Scored) -> str:
    """A target or a prediction, to a hundredth of the targets' standard deviation."""
    decimals = max(0, 2 - math.floor(math.log10(scored.facts["task"]["scale"])))
    return f"{value:,.{decimals}f}" if abs(value) < 1e5 else number(value)


def _png(pixels: NDArray[np.uint8]) -> str:
    """Images `(N, C, H, W)` side by side, as a data URI."""
    content = io.BytesIO()
    _image(np.concatenate(list(pixels), axis=-1)).save(content, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def _image(pixels: NDArray[Any]) -> Image.Image:
    """An image of one or three channels, `(C, H, W)`."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1))
