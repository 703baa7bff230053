"""The engine beside a plain recipe on the same work: `python -m benchmarks.engine`, `make bench`.

The plain recipe is what most would write: every batch composed of padded 8-image float sequences,
blanks encoded too, float32, `.item()` every step, validation sequence by sequence. Both train the
same network on the same sequences, one thread each, in turn (A B A B), medians of five repeats.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from crnn_search import engine, mnist
from crnn_search.config import MNIST_CRNN_2016, TrialConfig
from crnn_search.data import Digits, SequenceTable, draw_table, split_images, validation_table
from crnn_search.engine import TrainingData
from crnn_search.model import CRNN

CPU = torch.device("cpu")
RESULTS = Path(__file__).parent / "results" / "engine.json"

NETWORKS = {
    "2016 network, batch 128": TrialConfig.from_dict(
        MNIST_CRNN_2016.to_dict() | {"batch_size": 128}
    ),
    "16-32-64 + GRU 64, batch 128": TrialConfig.from_dict(
        {"conv_channels": [16, 32, 64], "gru_sizes": [64], "batch_size": 128}
    ),
}


def padded(digits: Digits, table: SequenceTable, rows: slice) -> Tensor:
    """Float images `(B, T, 1, 28, 28)`, blank where a sequence has ended."""
    images = digits.images[table.indices[rows].long()].unsqueeze(2).float() / 255
    blank = torch.arange(images.shape[1])[None] >= table.lengths[rows, None]
    return images.masked_fill(blank[:, :, None, None, None], 0.0)


def forward(model: CRNN, images: Tensor, lengths: Tensor) -> Tensor:
    """Encode every image, blanks too; run the GRUs over all steps."""
    features = model.encode(images.flatten(0, 1)).unflatten(0, images.shape[:2])
    for gru in model.grus:
        features = gru(features.transpose(0, 1))[0].transpose(0, 1)
    last = features[torch.arange(len(lengths)), lengths - 1]
    sums: Tensor = model.output(model.dropout(last)).squeeze(1)
    return sums


def run_plain(
    config: TrialConfig, digits: Digits, table: SequenceTable, validation: SequenceTable
) -> float:
    """Train one epoch and validate; returns the validation RMSE."""
    state = engine.start(config, seed=0, epochs=1, device=CPU)
    model = state.model.to(memory_format=torch.contiguous_format)
    size = config.training.batch_size
    steps = -(-len(table) // size)
    model.train()
    for step in range(steps):
        rows = slice(step * size, (step + 1) * size)
        for group in state.optimizer.param_groups:
            group["lr"] = engine.learning_rate_at(config.training, step / steps)
        loss = F.mse_loss(
            forward(model, padded(digits, table, rows), table.lengths[rows]), table.sums[rows]
        )
        state.optimizer.zero_grad()
        loss.backward()
        if config.training.gradient_clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.training.gradient_clip)
        state.optimizer.step()
        loss.item()
    model.eval()
    sums = []
    with torch.no_grad():
        for start in range(0, len(validation), size):
            rows = slice(start, start + size)
            sums.append(forward(model, padded(digits, validation, rows), validation.lengths[rows]))
    return engine.rmse(torch.cat(sums), validation.sums)


def run_engine(
    config: TrialConfig, digits: Digits, pool: Tensor, sequences: int, validation: SequenceTable
) -> float:
    """The same by the engine; returns the validation RMSE."""
    state = engine.start(config, seed=0, epochs=1, device=CPU)
    data = TrainingData(digits, pool, validation, sequences, max_digits=8)
    rmse = next(engine.train(state, data)).validation_rmse
    assert rmse is not None
    return rmse


def compare(config: TrialConfig, digits: Digits, sequences: int, repeats: int) -> dict[str, object]:
    """Seconds of each by repeat, their ratios pair by pair, and the RMSE each reached."""
    pool, _ = split_images(digits.labels)
    full = validation_table(digits.labels, 8)
    share = slice(0, sequences // 3)  # as 20,000 validation sequences stand to 60,000
    validation = SequenceTable(full.indices[share], full.lengths[share], full.sums[share])
    table = draw_table(pool, digits.labels, sequences, 8, seed=0)
    seconds: dict[str, list[float]] = {"plain": [], "engine": []}
    rmse: dict[str, float] = {}
    for _ in range(repeats):
        began = time.perf_counter()
        rmse["plain"] = run_plain(config, digits, table, validation)
        seconds["plain"].append(time.perf_counter() - began)
        began = time.perf_counter()
        rmse["engine"] = run_engine(config, digits, pool, sequences, validation)
        seconds["engine"].append(time.perf_counter() - began)
    ratios = [a / b for a, b in zip(seconds["plain"], seconds["engine"], strict=True)]
    return {"seconds": seconds, "ratios": ratios, "rmse": rmse}


def main() -> None:
    """Measure, print a table, write `benchmarks/results/engine.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=6000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--data-dir", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    digits = mnist.load(arguments.data_dir)
    table = Table(title="seconds for one epoch and its validation, medians")
    for column in ("network", "plain", "engine", "ratio (lowest to highest)"):
        table.add_column(column)
    results: dict[str, object] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "sequences": arguments.sequences,
    }
    for name, config in NETWORKS.items():
        found = compare(config, digits, arguments.sequences, arguments.repeats)
        results[name] = found
        seconds, ratios = found["seconds"], found["ratios"]
        assert isinstance(seconds, dict)
        assert isinstance(ratios, list)
        table.add_row(
            name,
            f"{statistics.median(seconds['plain']):.1f}",
            f"{statistics.median(seconds['engine']):.1f}",
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    Console().print(table)


if __name__ == "__main__":
    main()
