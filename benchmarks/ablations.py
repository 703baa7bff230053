"""What each part of a recipe is worth: `python -m benchmarks.ablations`.

The recipe, and the recipe without one thing each, are trained on MNIST's sums with the same seeds,
each for the same CPU seconds of one thread. A training is one epoch of as many sequences as its
variant takes in that time, which is measured once. Each training is one JSON line, and a
measurement that was stopped continues. `--test` scores the saved networks on the test images, once
all are trained.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from benchmarks.circumstances import circumstances, in_words
from benchmarks.work import MAX_DIGITS, best_arithmetic
from crnn_search.data import mnist
from crnn_search.data.mnist_sums import MnistSums
from crnn_search.hyperparameters import TrialConfig
from crnn_search.kernels import accelerate
from crnn_search.results.scores import T_QUANTILES
from crnn_search.training import checkpoint, engine, model
from crnn_search.training.engine import TrainingData, TrainState
from crnn_search.training.gru import PackedGRU
from crnn_search.training.metrics import rmse
from crnn_search.training.predict import predict

RESULTS = Path(__file__).parent / "results" / "ablations.jsonl"
MODELS = Path("build/ablations")
MEASURED = 4096
"""Sequences by which a variant's speed is measured."""

RECIPE, PLAIN_GRU = "recipe", "GRUs start as PyTorch's"
NO_GRU = "a head for each image and their sum, no GRU"
F: dict[str, Any] = {
    "conv_channels": [24, 48, 96, 96],
    "kernel_size": [5, 3, 3, 3],
    "pooling": [2, 2, 1, 1],
    "padding": "valid",
    "gru_sizes": [64],
    "feature_dropout": 0.2,
    "batch_size": 128,
    "reuse": 4,
    "learning_rate": 0.01,
    "affine": 0.5,
    "ema": 0.995,
}

_task: MnistSums


class ImageSum(nn.Module):
    """In place of a GRU: a layer with ReLU for each image, and its sum over the images so far."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, hidden)

    def project(self, inputs: Tensor) -> Tensor:
        """Inputs `(N, D)` to `(N, H)`."""
        return torch.relu(self.hidden(inputs))

    def recur(self, values: Tensor, batch_sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Sums `(N, H)`, and each sequence's whole one, `(B, H)`, as of `PackedGRU`."""
        sizes = batch_sizes.tolist()
        sums = list(values.split(sizes))
        for step, size in enumerate(sizes[1:], start=1):
            sums[step] = sums[step] + sums[step - 1][:size]
        ended = [rows[after:] for rows, after in zip(sums, [*sizes[1:], 0], strict=True)]
        return torch.cat(sums), torch.cat(ended[::-1])


@dataclass(frozen=True, eq=False)
class Variant:
    """What is trained. config: flat, all values named."""

    name: str
    config: dict[str, Any]

    def start(self, seed: int) -> TrainState:
        """A new training of one epoch."""
        cpu = torch.device("cpu")
        with self.built():
            return engine.start(
                TrialConfig.from_dict(self.config),
                seed=seed,
                epochs=1,
                device=cpu,
                arithmetic=best_arithmetic(cpu),
            )

    @contextlib.contextmanager
    def built(self) -> Iterator[None]:
        """Networks are built as this variant's meanwhile."""
        with contextlib.ExitStack() as changes:
            if self.name == PLAIN_GRU:
                plain = nn.GRU.reset_parameters
                changes.enter_context(mock.patch.object(PackedGRU, "reset_parameters", plain))
            if self.name == NO_GRU:  # which has no compiled kernel
                changes.enter_context(mock.patch.object(model, "PackedGRU", ImageSum))
                changes.enter_context(mock.patch.object(accelerate, "KernelGRU", lambda gru: gru))
            yield

    def model_file(self, seed: int, seconds: float) -> str:
        """The name of a trained network's file, another for each training."""
        text = json.dumps([self.name, self.config, seed, seconds])
        return f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"


def variants(recipe: Mapping[str, Any]) -> list[Variant]:
    """The recipe, and what differs from it in one thing."""
    whole = TrialConfig.from_dict(recipe).to_dict()
    changes: dict[str, dict[str, Any]] = {
        RECIPE: {},
        "without reuse": {"reuse": 1, "batch_size": whole["batch_size"] // whole["reuse"]},
        "without average": {"ema": 0.0},
        "without feature dropout": {"feature_dropout": 0.0},
        "without distortions": {"affine": 0.0, "shift": 0.0, "elastic": 0.0},
        "shift in place of affine": {"affine": 0.0, "shift": whole["affine"]},
        "elastic beside affine": {"elastic": whole["affine"]},
        PLAIN_GRU: {},
        "without batch norm": {"batch_norm": False},
        NO_GRU: {"gru_sizes": whole["gru_sizes"][:1]},
    }
    return [Variant(name, whole | change) for name, change in changes.items()]


def load(data_dir: Path | None) -> None:
    """Prepare a process that trains."""
    global _task
    torch.set_num_threads(1)
    _task = MnistSums(mnist.load(data_dir), MAX_DIGITS)


def speed(variant: Variant) -> float:
    """Sequences that it trains on in a CPU second, measured on its second epoch."""
    state, seconds = variant.start(0), 0.0
    for _ in range(2):
        seconds = _train(state, MEASURED)
    return MEASURED / seconds


def train(variant: Variant, seed: int, seconds: float, sequences: int, models: Path) -> Any:
    """Train on so many sequences, save the network, and return a line of the results."""
    state, table = variant.start(seed), _task.validation_table()
    cpu_s = _train(state, sequences)
    found = rmse(predict(state.result, _task.images, table), table.targets)
    info = {"task": _task.info.to_dict(), "seed": seed}
    path = models / variant.model_file(seed, seconds)
    checkpoint.save_model(path, state.result, state.config, info)
    return {
        "variant": variant.name,
        "config": variant.config,
        "seed": seed,
        "seconds": seconds,
        "sequences": sequences,
        "cpu_s": round(cpu_s, 2),
        "validation_rmse": found if math.isfinite(found) else None,
        "commit": circumstances()["commit"],
    }


def _train(state: TrainState, sequences: int) -> float:
    """CPU seconds of an epoch. It validates on one sequence, so that training is what is timed."""
    one = _task.validation_table().take(torch.arange(1))
    began = time.process_time()
    engine.train_epoch(state, TrainingData(_task, one, sequences))
    return time.process_time() - began


def matching(
    lines: Sequence[dict[str, Any]], variant: Variant, seconds: float
) -> dict[int, dict[str, Any]]:
    """A variant's lines by seed."""
    wanted = {"variant": variant.name, "config": variant.config, "seconds": seconds}
    return {line["seed"]: line for line in lines if wanted.items() <= line.items()}


def measure(arguments: argparse.Namespace) -> None:
    """Train what the file lacks: all variants with one seed, then with the next."""
    seconds, models = arguments.seconds, arguments.models
    models.mkdir(parents=True, exist_ok=True)
    lines = read(arguments.output)
    done = {variant: matching(lines, variant, seconds) for variant in arguments.variants}
    sequences = {v: next(iter(found.values()))["sequences"] for v, found in done.items() if found}
    new = [variant for variant in done if variant not in sequences]
    with (
        ProcessPoolExecutor(arguments.processes, get_context("spawn"), load,
                            (arguments.data_dir,)) as pool,
        arguments.output.open("a") as file,
    ):  # fmt: skip
        for variant, rate in zip(new, pool.map(speed, new), strict=True):
            sequences[variant] = max(1, round(rate * seconds))
        futures = [
            pool.submit(train, variant, seed, seconds, sequences[variant], models)
            for seed in range(arguments.seeds)
            for variant, found in done.items()
            if seed not in found
        ]
        for future in futures:
            line = future.result()
            file.write(json.dumps(line) + "\n")
            file.flush()
            print(f"{line['variant']}, seed {line['seed']}: {line['validation_rmse']}", flush=True)


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a file; none if it is missing."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def final_rmse(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """RMSE of each variant's networks on the test images, by seed."""
    task = MnistSums(mnist.load(arguments.data_dir, test_images=True), MAX_DIGITS)
    table, found = task.testing_table(), dict[str, list[float]]()
    for variant in arguments.variants:
        for seed in range(arguments.seeds):
            path = arguments.models / variant.model_file(seed, arguments.seconds)
            with variant.built():
                network = checkpoint.load_model(path)[0]
            predictions = predict(network, task.images, table)
            found.setdefault(variant.name, []).append(rmse(predictions, table.targets))
    return found


def markdown(rows: Mapping[str, Sequence[dict[str, Any]]], test: Mapping[str, list[float]]) -> str:
    """The table. rows: the lines of each variant, in the order of seeds; the recipe's first."""
    recipe = [line["validation_rmse"] for line in rows[RECIPE]]
    head = ["", "sequences", "CPU s", "validation RMSE", "times the recipe's"]
    lines = [head + ["test RMSE"] * bool(test), ["---", *["--:"] * (len(head) - 1 + bool(test))]]
    for name, found in rows.items():
        values = [line["validation_rmse"] for line in found]
        cells = [
            name,
            f"{found[0]['sequences']:,}",
            f"{statistics.fmean(line['cpu_s'] for line in found):.0f}",
            spread(values),
            "" if name == RECIPE else ratio(values, recipe),
        ]
        lines.append(cells + ([spread(test[name])] if test else []))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def spread(values: Sequence[float | None]) -> str:
    """Mean and standard deviation of finite values."""
    finite = [value for value in values if value is not None]
    if len(finite) < len(values):
        return f"{len(values) - len(finite)} of {len(values)} diverged"
    deviation = f" ± {statistics.stdev(finite):.3f}" if len(finite) > 1 else ""
    return f"{statistics.fmean(finite):.3f}{deviation}"


def ratio(values: Sequence[float | None], recipe: Sequence[float | None]) -> str:
    """Geometric mean of the ratios of pairs, and its 95 % interval by Student's t."""
    pairs = [(a, b) for a, b in zip(values, recipe, strict=True) if a is not None and b is not None]
    logs = [math.log(a / b) for a, b in pairs]
    if not logs:
        return ""
    mean = statistics.fmean(logs)
    if len(logs) == 1:
        return f"{math.exp(mean):.3f}"
    inverse = [1 / freedom for freedom in T_QUANTILES]
    t = float(np.interp(1 / (len(logs) - 1), inverse, list(T_QUANTILES.values())))
    half = t * statistics.stdev(logs) / math.sqrt(len(logs))
    return f"{math.exp(mean):.3f} ({math.exp(mean - half):.3f} to {math.exp(mean + half):.3f})"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="CPU seconds of a training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipe", type=Path, help="YAML or JSON: values in place of the recipe's")
    parser.add_argument("--only", nargs="+", help="variants to train, beside the recipe")
    parser.add_argument("--test", action="store_true", help="score on the test images at the end")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of trained networks")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    recipe = F | (yaml.safe_load(arguments.recipe.read_text()) if arguments.recipe else {})
    known = {variant.name: variant for variant in variants(recipe)}
    names = {RECIPE, *(arguments.only or known)}
    if unknown := names - known.keys():
        parser.error(f"--only takes {'; '.join(known)}, got {'; '.join(sorted(unknown))}")
    arguments.variants = [variant for name, variant in known.items() if name in names]
    return arguments


def main() -> None:
    """Measure, print the table."""
    arguments = parse()
    measure(arguments)
    lines = read(arguments.output)
    rows = {}
    for variant in arguments.variants:
        found = matching(lines, variant, arguments.seconds)
        rows[variant.name] = [found[seed] for seed in range(arguments.seeds)]
    test = final_rmse(arguments) if arguments.test else {}
    print(f"\n{markdown(rows, test)}\n")
    print(f"n = {arguments.seeds}; one thread a training; {in_words(circumstances())}")


if __name__ == "__main__":
    main()
