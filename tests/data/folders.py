"""Small data sets as folders."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HEADER = ("file_name", "sequence", "count")


def picture(number: int, size: tuple[int, int] = (8, 8), channels: int = 1) -> NDArray[np.uint8]:
    """A random image, uint8 `(H, W)` or `(H, W, 3)`."""
    shape = size if channels == 1 else (*size, channels)
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


def write_metadata(folder: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def clips(folder: Path, sequences: int = 6, length: int = 2) -> list[list[object]]:
    """Write sequences of random images: sequence `s<number>` has target <number>. Returns rows."""
    rows: list[list[object]] = []
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(sequences * length):
        Image.fromarray(picture(number)).save(folder / f"{number}.png")
        sequence = number // length
        rows.append([f"{number}.png", f"s{sequence}", sequence])
    write_metadata(folder, HEADER, rows)
    return rows
