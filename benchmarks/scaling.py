"""How an epoch's cost grows: with the number of sequences, and with their length.

`python -m benchmarks.scaling`: seconds of the second epoch and peak memory, a fresh process
each; 6,000 to 600,000 training sequences; then 6,000 sequences of up to 8, 16, 32 and 64 digits.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.circumstances import circumstances
from crnn_search import engine, mnist
from crnn_search.config import TrialConfig
from crnn_search.data import split_images
from crnn_search.engine import TrainingData

RESULTS = Path(__file__).parent / "results" / "scaling.json"
CONFIG = {"conv_channels": [8, 16], "kernel_size": 5, "pooling": [3, 2], "padding": "valid"}
SEQUENCES = (6_000, 20_000, 60_000, 200_000, 600_000)
DIGITS = (8, 16, 32, 64)


def epoch(sequences: int, max_digits: int, data_dir: Path | None) -> tuple[float, float]:
    """Seconds of the second of two epochs without validation, and peak memory in MB."""
    torch.set_num_threads(1)
    digits = mnist.load(data_dir)
    config = TrialConfig.from_dict(CONFIG | {"max_sequence_length": max_digits})
    pool, _ = split_images(digits.labels)
    state = engine.start(config, seed=0, epochs=2, device=torch.device("cpu"))
    data = TrainingData(digits, pool, None, sequences, max_digits)
    *_, last = engine.train(state, data)
    return last.seconds, last.peak_memory_mb


def alone(sequences: int, max_digits: int, data_dir: Path | None) -> tuple[float, float]:
    """The same in a fresh process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(epoch, sequences, max_digits, data_dir).result()


def main() -> None:
    """Measure, print, write `benchmarks/results/scaling.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path)
    data_dir = parser.parse_args().data_dir
    found: dict[str, list[dict[str, float]]] = {"sequences": [], "max_digits": []}
    for kind, sizes in (("sequences", SEQUENCES), ("max_digits", DIGITS)):
        for size in sizes:
            asked = (size, 8) if kind == "sequences" else (6_000, size)
            seconds, memory = alone(*asked, data_dir)
            images = asked[0] * (asked[1] + 1) / 2
            row = {
                kind: size,
                "seconds": seconds,
                "microseconds_an_image": 1e6 * seconds / images,
                "peak_memory_mb": memory,
            }
            found[kind].append(row)
            print({name: round(value, 2) for name, value in row.items()}, flush=True)
    RESULTS.write_text(json.dumps(circumstances() | found, indent=2) + "\n")


if __name__ == "__main__":
    main()
