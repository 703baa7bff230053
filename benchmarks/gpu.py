"""The engine on one GPU: beside an eager recipe, and many trials at once.

`python -m benchmarks.gpu` needs PyTorch and NumPy only, neither Ray nor pydantic. It measures
training sequences per second of one trial with the engine and with the usual recipe (a `Dataset` of
padded float sequences, `DataLoader`, `nn.GRU`, float32, `.item()` every step), then of 1 to 16
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
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from crnn_search.data import mnist
from crnn_search.data.sequences import Digits, SequenceTable, split_images, training_table
from crnn_search.hyperparameters import TrialConfig
from crnn_search.training import engine, memory
from crnn_search.training.engine import TrainingData
from crnn_search.training.model import CRNN

RESULTS = Path(__file__).parent / "results" / "gpu.json"
NETWORK = {"conv_channels": [16, 32, 64], "gru_sizes": [64], "batch_size": 128}
MAX_DIGITS = 8
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


class Sequences(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Padded sequences of images in [0, 1], `(8, 1, 28, 28)`, with length and sum."""

    def __init__(self, digits: Digits, table: SequenceTable) -> None:
        self._images, self._table = digits.images.cpu(), table

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor, Tensor]:
        length = self._table.lengths[row]
        images = torch.zeros(MAX_DIGITS, 1, 28, 28)
        real = self._images[self._table.indices[row, : int(length)].long()]
        images[: int(length), 0] = real.float() / 255
        return images, length, self._table.sums[row]


def recipe(task: Task, workers: int) -> float:
    """Training sequences per second of the usual recipe."""
    device, digits, config = (
        torch.device(task.device),
        task.digits(),
        TrialConfig.from_dict(NETWORK),
    )
    pool, _ = split_images(digits.labels.cpu())
    torch.manual_seed(0)
    model = CRNN(config.model).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), config.training.learning_rate)
    rates = []
    for epoch in range(2):
        table = training_table(pool, digits.labels.cpu(), task.sequences, MAX_DIGITS, 0, epoch)
        loader = DataLoader(
            Sequences(digits, table),
            config.training.batch_size,
            shuffle=True,
            num_workers=workers,
            pin_memory=device.type == "cuda",
        )
        began, total = time.perf_counter(), 0.0
        for images, lengths, sums in loader:
            loss = nn.functional.mse_loss(
                _padded(model, images.to(device), lengths.to(device)), sums.to(device)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        rates.append(len(table) / (time.perf_counter() - began))
    return rates[-1]


def _padded(model: CRNN, images: Tensor, lengths: Tensor) -> Tensor:
    """Predicted sums of padded sequences, blanks processed, too."""
    values = model.encode(images.flatten(0, 1)).unflatten(0, images.shape[:2])
    for gru in model.grus:
        values, _ = gru(values.transpose(0, 1))
        values = values.transpose(0, 1)
    rows = torch.arange(len(lengths), device=lengths.device)
    sums: Tensor = model.output(values[rows, lengths - 1]).squeeze(1)
    return sums


def trial(task: Task, seed: int, share: float, ready: Any, results: Any) -> None:
    """Train in a process of its own; its second epoch begins when all others' do."""
    device = torch.device(task.device)
    torch.set_num_threads(1)
    memory.limit_to(share, device)
    memory.keep_freed()
    digits = task.digits()
    pool, _ = split_images(digits.labels.cpu())
    state = engine.start(TrialConfig.from_dict(NETWORK), seed=seed, epochs=2, device=device)
    training = engine.train(state, TrainingData(digits, pool, None, task.sequences, MAX_DIGITS))
    next(training)
    ready.wait(WAIT_S)
    began = time.time()
    next(training)
    results.put((began, time.time(), memory.reserved_mb(device), state.note))


def together(task: Task, count: int) -> dict[str, Any]:
    """Sequences per second of so many trials at once, and each one's peak memory."""
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
        raise RuntimeError(f"of {count} trials some failed: {[p.exitcode for p in processes]}")
    found = [results.get() for _ in processes]
    spent = max(ended for _, ended, _, _ in found) - min(began for began, _, _, _ in found)
    return {
        "trials": count,
        "sequences_per_s": count * task.sequences / spent,
        "peak_memory_mb": max(peak for _, _, peak, _ in found),
        "note": next((note for *_, note in found if note), None),
    }


@contextmanager
def mps() -> Iterator[bool]:
    """NVIDIA's Multi-Process Service, started for the time being; whether it could be."""
    program = shutil.which("nvidia-cuda-mps-control")
    if program is None:
        yield False
        return
    with tempfile.TemporaryDirectory(prefix="mps-") as folder:
        names = ("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY")
        before = {name: os.environ.get(name) for name in names}
        os.environ |= dict.fromkeys(names, folder)
        try:
            began = subprocess.run([program, "-d"], check=False)
            yield began.returncode == 0 and memory.mps_runs()
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
            rates.append(recipe(task, number))
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
