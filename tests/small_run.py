"""A real run of the whole command line, small enough for a test: synthetic digits, real Ray.

It runs in a process of its own, where Ray's warnings are not errors.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from crnn_search.data.sequences import Digits

SPACE = """
search: {trials: 5, max_epochs: 2, grace_epochs: 1, reduction_factor: 2, epoch_sequences: 1024,
         max_concurrent_trials: 1, seed: 3}
retrain: {epochs: 1, epoch_sequences: 256, seeds: 2, finalists: 2}
first:
  - {learning_rate: 0.005, conv_channels: [4]}
space:
  conv_channels: {list_of: {int: [2, 6]}, length: [1, 2]}
  kernel_size: 5
  pooling: 4
  gru_sizes: [8]
  learning_rate: {float: [5.0e-3, 3.0e-2], log: true}
  batch_size: 32
"""

REPOSITORY = str(Path(__file__).parents[1])

PROGRAM = """
import hashlib, pathlib
from crnn_search.data import mnist
folder = pathlib.Path("data")
mnist.FILES = {
    name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in mnist.FILES
}
from crnn_search.cli.app import main
main()
"""
"""The command line with synthetic digits in MNIST's place, known by their own checksums."""


@dataclass(frozen=True)
class FinishedRun:
    """The folder of a run that has ended, the folder it was started in, and what it printed."""

    folder: Path
    root: Path
    done: subprocess.CompletedProcess[str]


def launch_small_run(root: Path, digits: Digits) -> FinishedRun:
    """Run `crnn-search launch` on `SPACE` in `root`."""
    (root / "space.yaml").write_text(SPACE)
    write_mnist(root / "data", digits)
    done = command(root, "launch", "space.yaml", "--name", "demo", "--data-dir", "data")
    return FinishedRun(root / "runs" / "demo", root, done)


def command(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `crnn-search` in `root`."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "COLUMNS": "200"},
    )


def start(
    root: Path, *arguments: str, before: str = "", **variables: str
) -> subprocess.Popen[bytes]:
    """Begin to run `crnn-search` in `root`, which prints to `log`.

    before: Python that runs first. variables: of the environment, for the workers too.
    """
    with (root / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", before + PROGRAM, *arguments],
            cwd=root,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "COLUMNS": "200", "PYTHONPATH": REPOSITORY, **variables},
        )


def write_mnist(folder: Path, digits: Digits) -> None:
    """Write synthetic digits as MNIST's four files."""
    folder.mkdir()
    for part, rows in (("train", slice(0, 60_000)), ("t10k", slice(60_000, None))):
        images, labels = digits.images[rows].numpy(), digits.labels[rows].numpy()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(bytes(16) + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(bytes(8) + labels.tobytes())
