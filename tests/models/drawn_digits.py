"""Pictures of digits that this project draws: fonts and pen strokes, on paper of many kinds.

`python -m tests.models.drawn_digits` draws `examples/digits`, and prepares them for
`crnn_search/models/example_digits.npz`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps
from torch import Tensor

from crnn_search.data.mnist_sums import MnistSource
from crnn_search.models.preprocessing import Preprocessing

FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono-Oblique", "STIXGeneral")

STROKES: dict[int, list[list[tuple[float, float]]]] = {
    0: [[(.5, 0), (.15, .2), (.05, .5), (.15, .8), (.5, 1), (.85, .8), (.95, .5), (.85, .2),
         (.5, 0)]],
    1: [[(.3, .2), (.55, 0), (.5, 1)]],
    2: [[(.05, .25), (.25, .03), (.6, 0), (.85, .2), (.8, .45), (.4, .75), (.05, 1), (.95, .97)]],
    3: [[(.1, .1), (.5, 0), (.85, .2), (.7, .42), (.4, .48), (.75, .55), (.9, .78), (.5, 1),
         (.05, .9)]],
    4: [[(.6, 0), (.35, .35), (.05, .65), (.95, .62)], [(.7, .3), (.66, 1)]],
    5: [[(.85, .02), (.25, .03), (.15, .45), (.55, .4), (.88, .6), (.8, .9), (.4, 1), (.05, .88)]],
    6: [[(.75, .02), (.35, .25), (.1, .65), (.25, .95), (.6, 1), (.85, .75), (.6, .55), (.2, .65)]],
    7: [[(.05, .03), (.95, 0), (.6, .5), (.4, 1)]],
    8: [[(.75, .15), (.5, 0), (.2, .15), (.35, .42), (.75, .65), (.8, .9), (.5, 1), (.2, .88),
         (.25, .65), (.65, .42), (.78, .2)]],
    9: [[(.85, .2), (.5, 0), (.15, .2), (.3, .48), (.7, .42), (.85, .15), (.8, .6), (.65, 1)]],
}  # fmt: skip
"""Pen strokes of each digit: points of a line, x and y from 0 to 1, y downwards."""


class Drawn(NamedTuple):
    """A picture file and the digit in it."""

    path: Path
    digit: int


def draw_all(folder: Path, count: int, seed: int = 0) -> list[Drawn]:
    """Write `count` pictures, of each digit equally many, each in a style of its own."""
    rng = np.random.default_rng(seed)
    return [_draw(folder, number, number % 10, rng) for number in range(count)]


def draw_empty(folder: Path, count: int, seed: int = 0) -> list[Path]:
    """Write pictures of paper: noise and uneven light, and nothing on it."""
    rng = np.random.default_rng(seed)
    paths = []
    for number in range(count):
        height, width = (int(side) for side in rng.integers(60, 400, 2))
        paths.append(_save(folder / f"empty_{number}", np.zeros((height, width)), rng))
    return paths


def draw_double(folder: Path, count: int, seed: int = 0) -> list[Path]:
    """Write pictures of two digits, beside each other or one above the other."""
    rng = np.random.default_rng(seed)
    paths = []
    for number in range(count):
        size = rng.integers(40, 120)
        sizes = int(size), int(size * rng.uniform(0.5, 1))
        first, second = (_glyph(int(rng.integers(10)), rng, side) for side in sizes)
        side = max(*first.shape, *second.shape)
        gap = int(side * rng.uniform(0.05, 0.4))
        ink = np.zeros((2 * side, 3 * side))
        ink[: first.shape[0], : first.shape[1]] = first
        if rng.random() < 0.7:
            left = first.shape[1] + gap
            ink[: second.shape[0], left : left + second.shape[1]] = second
        else:
            ink = np.zeros((3 * side, 2 * side))
            ink[: first.shape[0], : first.shape[1]] = first
            top = first.shape[0] + gap
            ink[top : top + second.shape[0], : second.shape[1]] = second
        paths.append(_save(folder / f"double_{number}", np.pad(_cut(ink), side // 2), rng))
    return paths


def _draw(folder: Path, number: int, digit: int, rng: np.random.Generator) -> Drawn:
    glyph = _glyph(digit, rng, int(rng.integers(30, 160)))
    room = rng.uniform(0.1, 1.5, 4) * max(glyph.shape)
    (top, bottom), (left, right) = room[:2].astype(int), room[2:].astype(int)
    ink = np.pad(glyph, ((top, bottom), (left, right)))
    return Drawn(_save(folder / f"{number:03d}_{digit}", ink, rng), digit)


def _glyph(digit: int, rng: np.random.Generator, size: int) -> np.ndarray:
    """A digit's ink, 0 to 1, about `size` pixels high, cut out."""
    image = Image.new("L", (3 * size, 3 * size))
    pen = ImageDraw.Draw(image)
    if rng.random() < 0.5:
        name = FONTS[rng.integers(len(FONTS))]
        folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
        pen.text((size, size), str(digit), 255, ImageFont.truetype(folder / f"{name}.ttf", size))
    else:
        width = max(2, int(size * rng.uniform(0.03, 0.14)))
        for stroke in STROKES[digit]:
            bent = np.array(stroke) + rng.normal(0, 0.015, (len(stroke), 2))
            points = [tuple(point) for point in _curve(bent * (0.65 * size, size) + size)]
            pen.line(points, 255, width, joint="curve")
            for x, y in (points[0], points[-1]):
                half = width / 2
                pen.ellipse((x - half, y - half, x + half, y + half), 255)
    turned = image.rotate(rng.uniform(-10, 10), Image.Resampling.BICUBIC)
    return _cut(np.asarray(turned, dtype=float) / 255)


def _curve(points: np.ndarray, steps: int = 8) -> np.ndarray:
    """A smooth line through points (Catmull-Rom), which are kept."""
    around = np.concatenate([points[:1], points, points[-1:]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    parts = []
    for a, b, c, d in zip(around, around[1:], around[2:], around[3:], strict=False):
        bend = (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
        parts.append(0.5 * (2 * b + (c - a) * t + bend))
    return np.concatenate([*parts, points[-1:]])


def _cut(ink: np.ndarray) -> np.ndarray:
    rows, columns = (np.flatnonzero(ink.max(axis) > 0.2) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _save(path: Path, ink: np.ndarray, rng: np.random.Generator) -> Path:
    """Put ink on paper of a random kind, and write it as PNG or JPEG, perhaps stored turned."""
    paper, pen = rng.integers(120, 256, 3), rng.integers(0, 90, 3)
    if rng.random() < 0.3:
        paper, pen = pen, paper
    light = _light(ink.shape, rng)[..., None]
    # Shadows keep the ink visible: light is at least 0.55 of the brightest.
    pixels = (paper + (pen - paper) * ink[..., None]) * light
    pixels = pixels + rng.normal(0, rng.choice([0, 2, 6]), pixels.shape)
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    image = image.filter(ImageFilter.GaussianBlur(float(rng.choice([0, 0, 0.7]))))
    exif = Image.Exif()
    if rng.random() < 0.2:
        exif[0x0112] = 6
        image = image.transpose(Image.Transpose.ROTATE_90)
    if rng.random() < 0.5:
        path = path.with_suffix(".jpg")
        image.save(path, exif=exif, quality=int(rng.integers(40, 96)))
    else:
        path = path.with_suffix(".png")
        image.save(path, exif=exif)
    return path


def _light(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """How bright the light is at each pixel, 0.55 to 1: even, a ramp, a lamp or a shadow's edge."""
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    kind = rng.integers(5)
    if kind < 2:
        return np.ones(shape)
    if kind == 2:
        return np.asarray(0.85 + 0.15 * along.clip(-1, 1))
    if kind == 3:
        return np.asarray(1 - 0.35 * ((x**2 + y**2) / 2))
    return np.where(along > rng.uniform(0.2, 0.8), 0.6, 1.0)


PREPROCESSING = Preprocessing.of(MnistSource(max_digits=8).info)


def read_digit(path: Path, on_warning: Callable[[str], None] = lambda text: None) -> Tensor:
    """A picture as `make search`'s networks take it, uint8 `(28, 28)`."""
    prepared = PREPROCESSING.read(path, str(path))
    for warning in prepared.warnings:
        on_warning(str(warning))
    return torch.from_numpy(prepared.pixels[0])


EXAMPLES = Path("examples/digits")
PREPARED = Path("crnn_search/models/example_digits.npz")
EXAMPLE_SEQUENCES = ((7, 2, 5), (4, 0, 9, 1), (3, 8, 6, 2, 7))


def draw_examples(folder: Path) -> None:
    """Write the pictures of `EXAMPLE_SEQUENCES`, small ones, with `metadata.csv`."""
    rng = np.random.default_rng(38)
    lines = ["file_name,sequence,sum"]
    for name, digits in zip("abc", EXAMPLE_SEQUENCES, strict=True):
        for place, digit in enumerate(digits, start=1):
            glyph = _glyph(digit, rng, int(rng.integers(40, 80)))
            drawn = _save(folder / f"{name}{place}_{digit}", np.pad(glyph, 16), rng)
            image = Image.open(drawn)
            upright = ImageOps.exif_transpose(image).convert("RGB").quantize(64)
            drawn.unlink()
            upright.save(folder / f"{name}{place}_{digit}.png", optimize=True)
            lines.append(f"{name}{place}_{digit}.png,{name},{sum(digits)}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")


def prepared_examples(folder: Path) -> dict[str, np.ndarray]:
    """The pictures as MNIST has them, in the arrays of a data set."""
    lengths = [len(digits) for digits in EXAMPLE_SEQUENCES]
    images = np.zeros((len(lengths), max(lengths), 28, 28), np.uint8)
    for row, (name, digits) in enumerate(zip("abc", EXAMPLE_SEQUENCES, strict=True)):
        for place, digit in enumerate(digits):
            file = folder / f"{name}{place + 1}_{digit}.png"
            images[row, place] = PREPROCESSING.read(file, file.name).pixels[0]
    targets = [float(sum(digits)) for digits in EXAMPLE_SEQUENCES]
    return {"images": images, "lengths": np.array(lengths), "targets": np.array(targets)}


if __name__ == "__main__":
    EXAMPLES.mkdir(exist_ok=True)
    draw_examples(EXAMPLES)
    np.savez_compressed(PREPARED, allow_pickle=False, **prepared_examples(EXAMPLES))
