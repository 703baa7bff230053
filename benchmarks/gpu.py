"""The engine on one GPU: beside an eager recipe, and many trials at once.

`python -m benchmarks.gpu` needs PyTorch and NumPy only, neither Ray nor pydantic. It measures
training sequences per second of one trial with the engine and with `peers.recipe`, then of 1 to 16
trials at once, a process each, with and without NVIDIA's Multi-Process Service, and each trial's
peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from benchmarks.peers import recipe
from benchmarks.work import MAX_DIGITS, best_arithmetic
from crnn_search.data import mnist
from crnn_search.data.sequences import Digits, split_images, training_table
from crnn_search.hyperparameters import TrialConfig
from crnn_search.training import engine, memory
from crnn_search.training.engine import TrainingData

RESULTS = Path(__file__).parent / "results" / "gpu.json"
NETWORK = {"conv_channels": [16, 32, 64], "gru_sizes": [64], "batch_size": 128}
TRIALS = (1, 2, 4, 8, 16)
WAIT_S = 600


@dataclass(frozen=True)
class Task:
    """What is measured. sequences: of an epoch; the second of two counts. device: by name."""

    sequences: int
    device: str
    data_dir: Path | None

    def digits(self) -> Digits:
        """MNIST, on the device."""
        return mnist.load(self.data_dir).to(torch.device(self.device))


def recipe_rate(task: Task, workers: int) -> float:
    """Training sequences per second of the plain recipe, with so many loader processes."""
    device, digits = torch.device(task.device), mnist.load(task.data_dir)
    pool, _ = split_images(digits.labels)
    config = TrialConfig.from_dict(NETWORK)
    training = recipe.start(config, seed=0, epochs=2, device=device)
    rates = []
    for epoch in range(2):
        table = training_table(pool, digits.labels, task.sequences, MAX_DIGITS, 0, epoch)
        loader = DataLoader(
            recipe.Sequences(digits, table),
            config.training.batch_size,
            num_workers=workers,
            pin_memory=device.type == "cuda",
        )
        start = time.perf_counter()
        training.train_epoch(loader, epoch)
        rates.append(len(table) / (time.perf_counter() - start))
    return rates[-1]


def trial(task: Task, seed: int, share: float, ready: Any, results: Any) -> None:
    """Train in a process of its own; all processes start their second epoch at once."""
    device = torch.device(task.device)
    torch.set_num_threads(1)
    memory.limit_to(share, device)
    memory.keep_freed()
    digits = task.digits()
    pool, _ = split_images(digits.labels.cpu())
    state = engine.start(
        TrialConfig.from_dict(NETWORK),
        seed=seed,
        epochs=2,
        device=device,
        arithmetic=best_arithmetic(device),
    )
    data = TrainingData(digits, pool, None, task.sequences, MAX_DIGITS)
    engine.train_epoch(state, data)
    ready.wait(WAIT_S)
    start = time.time()
    engine.train_epoch(state, data)
    results.put((start, time.time(), memory.reserved_mb(device), state.note))


def together(task: Task, count: int) -> dict[str, Any]:
    """Sequences per second of `count` trials at once, and the highest peak memory of a trial."""
    context = get_context("spawn")
    ready, results = context.Barrier(count), context.SimpleQueue()
    processes = [
        context.Process(target=trial, args=(task, seed, 1 / count, ready, results))
        for seed in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(WAIT_S)
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"{count} trials, exit codes {[p.exitcode for p in processes]}")
    found = [results.get() for _ in processes]
    seconds = max(end for _, end, _, _ in found) - min(start for start, _, _, _ in found)
    return {
        "trials": count,
        "sequences_per_s": count * task.sequences / seconds,
        "peak_memory_mb": max(peak for _, _, peak, _ in found),
        "note": next((note for *_, note in found if note), None),
    }


@contextmanager
def mps() -> Iterator[bool]:
    """Start NVIDIA's Multi-Process Service for the block; yields whether it runs."""
    program = shutil.which("nvidia-cuda-mps-control")
    if program is None:
        yield False
        return
    with tempfile.TemporaryDirectory(prefix="mps-") as folder:
        names = ("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY")
        before = {name: os.environ.get(name) for name in names}
        os.environ |= dict.fromkeys(names, folder)
        try:
            started = subprocess.run([program, "-d"], check=False)
            yield started.returncode == 0 and memory.mps_runs()
            subprocess.run([program], input="quit\n", text=True, check=False)
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def measure(
    task: Task, counts: Sequence[int], workers: Sequence[int], repeats: int
) -> dict[str, Any]:
    """All of it: one trial and the recipe in turn, then many trials."""
    one: list[float] = []
    peers: dict[int, list[float]] = {number: [] for number in workers}
    for _ in range(repeats):
        alone = together(task, 1)
        one.append(alone["sequences_per_s"])
        for number, rates in peers.items():
            rates.append(recipe_rate(task, number))
    best = max(statistics.median(rates) for rates in peers.values())
    found: dict[str, Any] = {
        "machine": _machine(task.device),
        "sequences": task.sequences,
        "one_trial": one,
        "recipe": {str(number): rates for number, rates in peers.items()},
        "ratio": statistics.median(one) / best,
        "note": alone["note"],
        "together": [together(task, count) for count in counts],
    }
    with mps() as runs:
        found["together_mps"] = [together(task, count) for count in counts] if runs else None
    return found


def _machine(device: str) -> dict[str, str]:
    gpu = torch.cuda.get_device_name() if device == "cuda" else "none"
    return {"gpu": gpu, "python": platform.python_version(), "torch": torch.__version__}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write `benchmarks/results/gpu.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--sequences", type=int, default=60_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--trials", type=int, nargs="+", default=TRIALS)
    parser.add_argument("--workers", type=int, nargs="+", default=(0, 8))
    parser.add_argument("--device", default="cuda", help="cpu tries the program out")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA here; --device cpu tries the program out")
    task = Task(options.sequences, options.device, options.data_dir)
    found = measure(task, options.trials, options.workers, options.repeats)
    options.output.write_text(json.dumps(found, indent=2) + "\n")
    print(f"one trial: {found['ratio']:.1f} times the recipe")
    for kind, word in (("together", "without"), ("together_mps", "with")):
        for row in found[kind] or []:
            print(
                f"{row['trials']} trials {word} MPS: {row['sequences_per_s']:,.0f} sequences/s, "
                f"{row['peak_memory_mb']:,.0f} MB each"
            )
    if found["note"]:
        print(found["note"])
    if not found["together_mps"]:
        print("MPS is not available here")


if __name__ == "__main__":
    main()
