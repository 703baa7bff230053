"""Record learning curves, so that searches can be replayed: `python -m benchmarks.record_curves`.

Random configurations of `search_spaces/default.yaml` are trained for nine short epochs each, with
one thread, and validated on a fixed part of the validation images. Each is one JSON line: `number`,
`config`, and `validation_rmse` and `seconds` by epoch. A recording that was stopped continues.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from benchmarks.work import MAX_DIGITS, best_arithmetic
from crnn_search.data import mnist
from crnn_search.data.digits import Digits, draw_table, split_images
from crnn_search.data.mnist_sums import MnistSums
from crnn_search.errors import ConfigError
from crnn_search.hyperparameters import MNIST_SHAPE, TrialConfig
from crnn_search.spaces.file import load_space
from crnn_search.spaces.space import sample
from crnn_search.training import engine
from crnn_search.training.engine import TrainingData

SPACE = Path("search_spaces/default.yaml")
RECORDING = Path(__file__).parent / "recordings" / "default-9x3000.jsonl"
EPOCHS, SEQUENCES = 9, 3000
VALIDATION_IMAGES, VALIDATION_SEQUENCES = 2000, 5000

_digits: Digits


def _load(data_dir: Path | None) -> None:
    global _digits
    torch.set_num_threads(1)
    _digits = mnist.load(data_dir)


def record(number: int, config: dict[str, Any]) -> dict[str, Any]:
    """Train one configuration. A validation RMSE that is not finite is null."""
    _, validation = split_images(_digits.labels)
    table = draw_table(
        validation[:VALIDATION_IMAGES], _digits.labels, VALIDATION_SEQUENCES, MAX_DIGITS, 0
    )
    cpu = torch.device("cpu")
    state = engine.start(
        TrialConfig.from_dict(config),
        seed=number,
        epochs=EPOCHS,
        device=cpu,
        arithmetic=best_arithmetic(cpu),
    )
    data = TrainingData(MnistSums(_digits, MAX_DIGITS), table, SEQUENCES)
    curve, seconds = [], []
    for _ in range(EPOCHS):
        metrics = engine.train_epoch(state, data)
        rmse = metrics.validation_rmse
        curve.append(round(rmse, 4) if rmse is not None and rmse < 1e6 else None)
        seconds.append(round(metrics.seconds, 2))
    return {"number": number, "config": config, "validation_rmse": curve, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=240)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--output", type=Path, default=RECORDING)
    arguments = parser.parse_args()
    output: Path = arguments.output
    output.parent.mkdir(exist_ok=True)
    lines = output.read_text().splitlines() if output.exists() else []
    done = {json.loads(line)["number"] for line in lines}
    draws = enumerate(sample(load_space(SPACE), 2024, arguments.count))
    with (
        ProcessPoolExecutor(arguments.processes, initializer=_load,
                            initargs=(arguments.data_dir,)) as pool,
        output.open("a") as file,
    ):  # fmt: skip
        futures = [pool.submit(record, n, c) for n, c in draws if n not in done and _feasible(c)]
        for future in as_completed(futures):
            file.write(json.dumps(future.result()) + "\n")
            file.flush()


def _feasible(config: dict[str, Any]) -> bool:
    try:
        TrialConfig.from_dict(config).model.check(MNIST_SHAPE)
    except ConfigError:
        return False
    return True


if __name__ == "__main__":
    main()
