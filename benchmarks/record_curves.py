"""Record learning curves, so that searches can be replayed: `python -m benchmarks.record_curves`.

Random configurations of `search_spaces/default.yaml` are trained for 27 short epochs, with one
thread, and validated on a fixed part of the validation images; every fifth a second time, with
another seed. Each training is one JSON line: `number`, `seed`, `config`, and by epoch
`validation_rmse`, of the averaged weights, and `seconds`; `raw_rmse` has, for the epochs of
`RAW_EPOCHS`, that of the weights themselves. A recording that was stopped continues.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.work import MAX_DIGITS, best_arithmetic
from crnn_search.data import mnist
from crnn_search.data.digits import Digits, draw_table, split_images
from crnn_search.data.mnist_sums import MnistSums
from crnn_search.hyperparameters import TrialConfig
from crnn_search.spaces.file import load_space
from crnn_search.spaces.space import feasible, sample
from crnn_search.training import engine
from crnn_search.training.engine import TrainingData
from crnn_search.training.metrics import rmse
from crnn_search.training.predict import predict

SPACE = Path("search_spaces/default.yaml")
RECORDING = Path(__file__).parent / "recordings" / "default-27x2000.jsonl"
EPOCHS, SEQUENCES = 27, 2000
RAW_EPOCHS = (1, 3, 9, 27)
CONFIGURATIONS, SECOND_SEEDS = 300, 60
VALIDATION_IMAGES, VALIDATION_SEQUENCES = 2000, 5000

_digits: Digits


class Training(NamedTuple):
    """One training to record: the configuration's number, and the number of its seed, 0 or 1."""

    number: int
    seed: int
    config: dict[str, Any]


def trainings() -> list[Training]:
    """All trainings; those with a second seed are spread over the others."""
    space = load_space(SPACE)
    configs = [c.to_dict() for c in feasible(space, sample(space, 2024, 2 * CONFIGURATIONS))]
    found = []
    for number, config in enumerate(configs[:CONFIGURATIONS]):
        found.append(Training(number, 0, config))
        if number % (CONFIGURATIONS // SECOND_SEEDS) == 0:
            found.append(Training(number, 1, config))
    return found


def _load(data_dir: Path | None) -> None:
    global _digits
    torch.set_num_threads(1)
    _digits = mnist.load(data_dir)


def record(training: Training) -> dict[str, Any]:
    """Train one configuration. An RMSE that is not finite is null."""
    _, validation = split_images(_digits.labels)
    table = draw_table(
        validation[:VALIDATION_IMAGES], _digits.labels, VALIDATION_SEQUENCES, MAX_DIGITS, 0
    )
    cpu = torch.device("cpu")
    state = engine.start(
        TrialConfig.from_dict(training.config),
        seed=2 * training.number + training.seed,
        epochs=EPOCHS,
        device=cpu,
        arithmetic=best_arithmetic(cpu),
    )
    data = TrainingData(MnistSums(_digits, MAX_DIGITS), table, SEQUENCES)
    info = data.task.info
    average: list[float | None] = []
    raw: dict[str, float | None] = {}
    seconds: list[float] = []
    for epoch in range(1, EPOCHS + 1):
        metrics = engine.train_epoch(state, data)
        average.append(_rounded(metrics.validation_rmse))
        seconds.append(round(metrics.seconds, 3))
        if epoch in RAW_EPOCHS:
            predicted = predict(state.model, data.task.images, table).double() * info.scale
            raw[str(epoch)] = _rounded(rmse(predicted + info.center, table.targets))
    return training._asdict() | {
        "validation_rmse": average, "raw_rmse": raw, "seconds": seconds,
    }  # fmt: skip


def _rounded(value: float | None) -> float | None:
    return round(value, 4) if value is not None and value < 1e6 else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--output", type=Path, default=RECORDING)
    arguments = parser.parse_args()
    output: Path = arguments.output
    output.parent.mkdir(exist_ok=True)
    lines = output.read_text().splitlines() if output.exists() else []
    done = {(line["number"], line["seed"]) for line in map(json.loads, lines)}
    with (
        ProcessPoolExecutor(arguments.processes, initializer=_load,
                            initargs=(arguments.data_dir,)) as pool,
        output.open("a") as file,
    ):  # fmt: skip
        left = [t for t in trainings() if (t.number, t.seed) not in done]
        for future in as_completed([pool.submit(record, training) for training in left]):
            file.write(json.dumps(future.result()) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
