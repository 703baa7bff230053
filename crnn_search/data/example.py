"""A small, real data set to try: sequences of handwritten digits, as a folder of images."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crnn_search.data.folder import METADATA
from crnn_search.data.sequence_list import SHARES, SPLITS
from crnn_search.errors import DataError

SOURCES = ("mnist", "digits")
"""MNIST's training images, 28 × 28, or scikit-learn's digits, 8 × 8."""

LONGEST = 8

SPACE = """\
# A search of the data set in this folder: crnn-search launch space.yaml
task: {data: ., target: sum}
search: {trials: 8, max_epochs: 27, grace_epochs: 3, reduction_factor: 3, seed: 0}
retrain: {epochs: 40, seeds: 2, finalists: 2}
first:
  - {conv_channels: [16, 32], gru_sizes: [64], learning_rate: 0.01, batch_size: 32}
space:
  conv_channels: {list_of: {int: [8, 64], log: true}, length: [2, 3]}
  kernel_size: 3
  pooling: 2
  gru_sizes: {list_of: {int: [32, 96], log: true}, length: 1}
  dropout: {float: [0.0, 0.2]}
  learning_rate: {float: [3.0e-3, 2.0e-2], log: true}
  batch_size: {choice: [32, 64]}
"""


def write_example(
    folder: Path,
    *,
    source: str = "mnist",
    coloured: bool = False,
    sequences: int = 2000,
    data_dir: Path | None = None,
) -> None:
    """Write sequences of 1 to 8 digits whose target is the sum of the digits, and a `space.yaml`.

    source: one of `SOURCES`. coloured: digits are red or blue, and only red ones count. data_dir: a
    folder with MNIST's four files, else it is downloaded. No image is in two splits.

    Raises:
        DataError: the folder has files already or cannot be written, or there are no digits.
    """
    if source not in SOURCES:
        raise DataError(f"source must be one of {', '.join(SOURCES)}, got {source!r}")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise DataError(f"{folder} must be a new or an empty folder")
    images, digits = _scikit_learn() if source == "digits" else _mnist(data_dir)
    random = np.random.default_rng(0)
    red = random.random(len(images)) < 0.5
    counted = np.where(red, digits, 0) if coloured else digits
    ends = (np.cumsum(SHARES)[:-1] * len(images)).astype(int)
    pools = np.split(random.permutation(len(images)), ends)
    splits = random.choice(len(SPLITS), sequences, p=SHARES)
    drawn = [random.choice(pools[split], random.integers(1, LONGEST + 1)) for split in splits]
    rows = [
        (_file_name(image), number, counted[members].sum(), SPLITS[split])
        for number, (members, split) in enumerate(zip(drawn, splits, strict=True))
        for image in members
    ]
    pictures = {
        _file_name(image): _colour(images[image], red[image]) if coloured else images[image]
        for image in np.unique(np.concatenate(drawn))
    }
    try:
        _write(folder, pictures, rows)
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error.strerror}") from error


def _write(
    folder: Path, pictures: dict[str, NDArray[np.uint8]], rows: list[tuple[Any, ...]]
) -> None:
    (folder / "images").mkdir(parents=True)
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / name)
    with (folder / METADATA).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file_name", "sequence", "sum", "split"), *rows])
    (folder / "space.yaml").write_text(SPACE)


def _file_name(image: int) -> str:
    return f"images/{image:05d}.png"


def _mnist(data_dir: Path | None) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Grey images, uint8 `(I, 28, 28)`, and the digit of each, uint8 `(I,)`."""
    from crnn_search.data import mnist  # here: it needs PyTorch

    found = mnist.load(data_dir)
    return found.images.numpy(), found.labels.numpy()


def _scikit_learn() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Grey images, uint8 `(I, 8, 8)`, and the digit of each, int64 `(I,)`."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("the digits are scikit-learn's: pip install scikit-learn") from error
    found = load_digits()
    return (found.images * (255 / 16)).round().astype(np.uint8), found.target


def _colour(image: NDArray[np.uint8], red: bool) -> NDArray[np.uint8]:
    """A red or a blue digit on black, uint8 `(H, W, 3)`."""
    share = np.array([1.0, 0.3, 0.1] if red else [0.1, 0.4, 1.0])
    return np.asarray(image[:, :, None] * share).round().astype(np.uint8)
