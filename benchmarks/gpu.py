"""The engine on one GPU: the figures that `docs/benchmarks.md` has targets for, and more.

`python -m benchmarks.gpu` needs PyTorch and NumPy only, and no files: images are random, as no
figure depends on them. For each network it measures an epoch of a search with CUDA graphs and
without, its peak memory beside the probe's, and the eager recipe of `peers.recipe`; then 1 to 16
trials at once, a process each, with and without NVIDIA's Multi-Process Service. It starts nothing
after `--limit` seconds, and says what it left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from benchmarks.circumstances import circumstances, in_words
from benchmarks.peers import recipe
from benchmarks.work import MAX_DIGITS, NETWORKS, best_arithmetic
from crnn_search.data.digits import (
    TRAINING_IMAGES,
    Digits,
    draw_table,
    split_images,
    training_table,
)
from crnn_search.data.mnist_sums import MnistSums
from crnn_search.data.task import Draw
from crnn_search.hyperparameters import TrialConfig
from crnn_search.training import cuda_graphs, engine, memory, probe
from crnn_search.training.engine import TrainingData
from crnn_search.training.predict import predict

RESULTS = Path(__file__).parent / "results" / "gpu.json"
SHARED = "16-32-64 + GRU 64"
"""The network that many trials train at once."""

TRIALS = (1, 2, 4, 8, 16)
WAIT_S = 300
SEQUENCES_PER_RECIPE = 10
"""The recipe trains on a tenth of the sequences: its rate does not depend on their number."""


@dataclass(frozen=True)
class Task:
    """What is measured. sequences: of an epoch; a third as many validate. device: by name."""

    sequences: int
    device: str

    def digits(self) -> Digits:
        """Random images, on the CPU."""
        generator = torch.Generator().manual_seed(0)
        shape = TRAINING_IMAGES, 28, 28
        images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        labels = torch.randint(10, (len(images),), generator=generator, dtype=torch.uint8)
        return Digits(images, labels)

    def data(self, device: torch.device) -> TrainingData:
        """Of a trial, without its validation."""
        return TrainingData(MnistSums(self.digits(), MAX_DIGITS).to(device), None, self.sequences)


def epoch(task: Task, network: str, graphs: bool) -> dict[str, Any]:
    """One trial alone: seconds and rate of its last epoch, its validation, its peak memory."""
    if not graphs:
        cuda_graphs.MAX_GRAPHS = 0
    device, data = torch.device(task.device), task.data(torch.device(task.device))
    config, arithmetic = TrialConfig.from_dict(NETWORKS[network]), best_arithmetic(device)
    probed = None
    if graphs:
        probed = probe.peak_of(config, data.task, task.sequences, arithmetic)
    _reset_peak(device)
    state = engine.start(config, seed=0, epochs=2, device=device, arithmetic=arithmetic)
    labels = task.digits().labels
    table = draw_table(split_images(labels)[1], labels, task.sequences // 3, MAX_DIGITS, 0)
    first = engine.train_epoch(state, data)
    last = engine.train_epoch(state, data)
    predict(state.result, data.task.images, table)
    started = time.perf_counter()
    predict(state.result, data.task.images, table)
    return {
        "arithmetic": str(arithmetic),
        "first_epoch_s": first.seconds,
        "epoch_s": last.seconds,
        "sequences_per_s": last.sequences_per_s,
        "validation_s": time.perf_counter() - started,
        "peak_memory_mb": memory.reserved_mb(device),
        "probed_mb": probed,
        "note": state.note,
    }


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def recipe_rate(task: Task, network: str, workers: int) -> float:
    """Training sequences per second of the plain recipe, with so many loader processes."""
    device, digits = torch.device(task.device), task.digits()
    pool, _ = split_images(digits.labels)
    config = TrialConfig.from_dict(NETWORKS[network])
    training = recipe.start(config, seed=0, epochs=2, device=device)
    sequences = max(1, task.sequences // SEQUENCES_PER_RECIPE)
    for number in range(2):
        draw = Draw(sequences, MAX_DIGITS, 0, number, config.training.batch_size)
        table = training_table(pool, digits.labels, draw)
        loader = DataLoader(
            recipe.Sequences(digits, table),
            config.training.batch_size,
            num_workers=workers,
            pin_memory=device.type == "cuda",
        )
        start = time.perf_counter()
        training.train_epoch(loader, number)
        seconds = time.perf_counter() - start
    return sequences / seconds


def trial(task: Task, seed: int, share: float, ready: Any, results: Any) -> None:
    """Train in a process of its own; all processes start their second epoch at once."""
    try:
        results.put(_train(task, seed, share, ready))
    except BaseException:
        ready.abort()  # the others wait for this one no more
        raise


def _train(task: Task, seed: int, share: float, ready: Any) -> tuple[float, float, float, Any]:
    device = torch.device(task.device)
    torch.set_num_threads(1)
    memory.limit_to(share, device)
    data, config = task.data(device), TrialConfig.from_dict(NETWORKS[SHARED])
    arithmetic = best_arithmetic(device)
    state = engine.start(config, seed=seed, epochs=2, device=device, arithmetic=arithmetic)
    engine.train_epoch(state, data)
    ready.wait(WAIT_S)
    start = time.time()
    engine.train_epoch(state, data)
    return start, time.time(), memory.reserved_mb(device), state.note


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
    if any(process.exitcode != 0 for process in processes):
        codes = [process.exitcode for process in processes]
        for process in processes:
            process.kill()
        raise RuntimeError(f"{count} trials, exit codes {codes}")
    found = [results.get() for _ in processes]
    seconds = max(end for _, end, _, _ in found) - min(start for start, _, _, _ in found)
    return {
        "trials": count,
        "sequences_per_s": count * task.sequences / seconds,
        "peak_memory_mb": max(peak for _, _, peak, _ in found),
        "note": next((note for *_, note in found if note), None),
    }


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result, computed in a process of its own, whose memory is then free."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


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


class Measurements:
    """What was found, printed as it comes. Nothing starts after `limit_s` seconds."""

    def __init__(self, limit_s: float) -> None:
        self._end = time.monotonic() + limit_s
        self.found: dict[str, Any] = {}
        self.left_out: list[str] = []

    def measure(self, name: str, function: Callable[..., Any], *arguments: Any) -> None:
        """One more. An error of one does not end the others."""
        if time.monotonic() > self._end:
            self.left_out.append(name)
            return
        try:
            self.found[name] = function(*arguments)
        except Exception as error:
            self.found[name] = {"error": f"{type(error).__name__}: {error}"}
        print(f"{name}: {_in_words(self.found[name])}", flush=True)


def measure(found: Measurements, task: Task, counts: Sequence[int], workers: Sequence[int]) -> None:
    """All of it, the most important first."""
    for network in NETWORKS:
        found.measure(f"{network}, graphs", alone, epoch, task, network, True)
        for number in workers:
            name = f"{network}, recipe, {number} workers"
            found.measure(name, recipe_rate, task, network, number)
        found.measure(f"{network}, eager", alone, epoch, task, network, False)
    for count in counts:
        found.measure(f"{count} trials", together, task, count)
    with mps() as runs:
        for count in counts if runs else ():
            found.measure(f"{count} trials, MPS", together, task, count)


def ratios(found: dict[str, Any], workers: Sequence[int]) -> dict[str, float]:
    """How many times as fast as the recipe, with the best number of its workers, a trial is."""
    result = {}
    for network in NETWORKS:
        rates = [found.get(f"{network}, recipe, {number} workers") for number in workers]
        best = max((rate for rate in rates if isinstance(rate, float)), default=None)
        ours = found.get(f"{network}, graphs", {}).get("sequences_per_s")
        if best and ours:
            result[network] = ours / best
    return result


def _in_words(value: Any) -> str:
    if not isinstance(value, dict):
        return f"{value:,.0f} sequences/s"
    return ", ".join(
        f"{name} {v:,.3g}" if isinstance(v, float) and v < 100 else f"{name} {_rounded(v)}"
        for name, v in value.items()
        if v is not None
    )


def _rounded(value: Any) -> str:
    return f"{value:,.0f}" if isinstance(value, float) else str(value)


def _gpu(device: str) -> dict[str, Any] | None:
    if device != "cuda":
        return None
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "name": properties.name,
        "memory_mb": properties.total_memory / 1e6,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write `benchmarks/results/gpu.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=60_000)
    parser.add_argument("--limit", type=float, default=480.0, help="seconds")
    parser.add_argument("--trials", type=int, nargs="+", default=TRIALS)
    parser.add_argument("--workers", type=int, nargs="+", default=(0, 8))
    parser.add_argument("--device", default="cuda", help="cpu tries the program out")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA here; --device cpu tries the program out")
    machine = circumstances("numpy") | {"gpu": _gpu(options.device)}
    print(in_words(machine), machine["gpu"] or "no GPU", sep="; ")
    found, started = Measurements(options.limit), time.monotonic()
    task = Task(options.sequences, options.device)
    measure(found, task, options.trials, options.workers)
    times = ratios(found.found, options.workers)
    results = machine | {
        "sequences": options.sequences,
        "found": found.found,
        "times_the_recipe": times,
        "left_out": found.left_out,
        "seconds": time.monotonic() - started,
    }
    options.output.write_text(json.dumps(results, indent=2) + "\n")
    for network, ratio in times.items():
        print(f"{network}: {ratio:.1f} times the recipe")
    if found.left_out:
        print(f"left out for lack of time: {'; '.join(found.left_out)}")
    if not any(name.endswith("MPS") for name in (*found.found, *found.left_out)):
        print("MPS is not available here")


if __name__ == "__main__":
    main()
