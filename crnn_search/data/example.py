"""A small, real data set to try: sequences of handwritten digits, as a folder of images."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crnn_search.data.folder import METADATA
from crnn_search.data.sequence_list import SPLITS
from crnn_search.errors import DataError

SOURCES = ("mnist", "digits")
"""MNIST's training images, 28 × 28, or scikit-learn's digits, 8 × 8."""

LONGEST = 8

_SHARES = (0.70, 0.15, 0.15)


def write_example(
    folder: Path,
    *,
    source: str = "mnist",
    coloured: bool = False,
    sequences: int = 2000,
    seed: int = 0,
) -> None:
    """Write sequences of 1 to 8 digits, whose target is the sum of the digits.

    source: one of `SOURCES`. coloured: digits are red or blue, and red ones count alone. No image
    is in two splits.

    Raises:
        DataError: the folder has files already, or the digits are not available.
    """
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder} must be empty or new; it has files")
    images, digits = _digits(source)
    random = np.random.default_rng(seed)
    red = random.random(len(images)) < 0.5
    counted = np.where(red, digits, 0) if coloured else digits
    pools = _pools(len(images), random)
    splits = random.choice(len(SPLITS), sequences, p=_SHARES)
    drawn = [random.choice(pools[split], random.integers(1, LONGEST + 1)) for split in splits]
    (folder / "images").mkdir(parents=True)
    for image in np.unique(np.concatenate(drawn)):
        picture = _colour(images[image], bool(red[image])) if coloured else images[image]
        Image.fromarray(picture).save(folder / _file_name(image))
    rows = (
        (_file_name(image), number, counted[members].sum(), SPLITS[split])
        for number, (members, split) in enumerate(zip(drawn, splits, strict=True))
        for image in members
    )
    with (folder / METADATA).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("file_name", "sequence", "sum", "split"))
        writer.writerows(rows)


def _file_name(image: int) -> str:
    return f"images/{image:05d}.png"


def _digits(source: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Grey images, uint8 `(I, H, W)`, and the digit of each, int64 `(I,)`."""
    if source == "digits":
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise DataError("the digits are scikit-learn's: pip install scikit-learn") from error
        bunch = load_digits()
        return (bunch.images * (255 / 16)).round().astype(np.uint8), bunch.target.astype(np.int64)
    if source == "mnist":
        from crnn_search.data import mnist  # here: it needs PyTorch

        found = mnist.load()
        return found.images.numpy(), found.labels.numpy().astype(np.int64)
    raise DataError(f"an example is made from one of {', '.join(SOURCES)}, got {source!r}")


def _pools(images: int, random: np.random.Generator) -> Sequence[NDArray[np.int64]]:
    """The images of each split."""
    ends = (np.cumsum(_SHARES[:-1]) * images).astype(int)
    return np.split(random.permutation(images), ends)


def _colour(image: NDArray[np.uint8], red: bool) -> NDArray[np.uint8]:
    """A red or a blue digit on black, uint8 `(H, W, 3)`."""
    share = np.array([1.0, 0.3, 0.1] if red else [0.1, 0.4, 1.0])
    return (image[:, :, None] * share).round().astype(np.uint8)
