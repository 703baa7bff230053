"""Draws digits on the page, with a mouse."""

from __future__ import annotations

import numpy as np
from playwright.sync_api import Page

from tests.models.drawn_digits import STROKES, _curve


def draw(page: Page, digit: int) -> None:
    """Draw a digit's strokes on the canvas."""
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    for stroke in STROKES[digit]:
        points = [
            (
                box["x"] + box["width"] * (0.3 + 0.4 * x),
                box["y"] + box["height"] * (0.18 + 0.64 * y),
            )
            for x, y in _curve(np.array(stroke), steps=4)
        ]
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point)
        page.mouse.up()


def wait_for(page: Page, images: int) -> None:
    """Wait until what is shown is the answer for so many images."""
    page.wait_for_selector(f"html[data-images='{images}']", state="attached")
