"""Where one epoch's time goes: `python -m benchmarks.profile_epoch`.

Trains two epochs of 3,840 sequences on one core and profiles the second, validation included. With
`--package DIR` it profiles the package of another checkout, so that what was and what is are
measured by the same program:

    git worktree add ../before 6d7c537
    python -m benchmarks.profile_epoch --package ../before --name before
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import re
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

RESULTS = Path(__file__).parent / "results" / "profile.json"
NETWORKS = {
    "2016 network": None,
    "16-32-64 + GRU 64": {"conv_channels": [16, 32, 64], "gru_sizes": [64], "batch_size": 128},
}
SEQUENCES = 3840
MAX_DIGITS = 8

PARTS = {
    "first layer, if apart": r"Stem|stem_|pixel_moments",
    "convolutions": r"conv|winograd",
    "normalising, pooling, ReLU": r"_Pool|pool|batch_norm|map_moments|relu|threshold|clamp",
    "recurrence": r"gru|_Compiled|_Recurrence|sigmoid|tanh|lerp|_thnn",
    "matrix products": r"::(mm|addmm|bmm|baddbmm|linear|matmul)$|_Linear|product",
    "optimizer, clipping": r"Optimizer|adamw|update|norm|sqrt|addc|foreach|zero_grad",
    "copies, gathering": r"copy_|index|cat$|gather|masked|clone|contiguous|fill_|zero_|sort",
}
"""Parts of an epoch, by the names of PyTorch's operations and of kernels in C; the first counts."""


def part_of(name: str) -> str:
    """The part that an operation belongs to."""
    found = (part for part, pattern in PARTS.items() if re.search(pattern, name))
    return next(found, "all else")


@contextlib.contextmanager
def kernels_named() -> Iterator[None]:
    """Has the profiler see kernels in C, if the package has any, by their names."""
    try:
        from crnn_search import matrices, native
    except ImportError:
        yield
        return
    calls: Any = native
    updates: Any = matrices
    call, update = calls.call, updates.update

    @functools.wraps(call)
    def named(name: str, *arguments: Any) -> Any:
        with record_function(name):
            return call(name, *arguments)

    calls.call = named
    updates.update = lambda *arguments: _recorded("update", update, *arguments)
    yield
    calls.call, updates.update = call, update


def _recorded(name: str, function: Any, *arguments: Any) -> Any:
    with record_function(name):
        return function(*arguments)


def epoch(
    config: dict[str, Any] | None, data_dir: Path | None, package: Path | None
) -> dict[str, float]:
    """Milliseconds of each part of an epoch; `whole` without the profiler, median of three."""
    if package:
        sys.path.insert(0, str(package.resolve()))
    torch.set_num_threads(1)
    with contextlib.suppress(ImportError, AttributeError):
        from crnn_search import memory

        memory.keep_freed()  # as in a trial's process
    from crnn_search import engine, mnist
    from crnn_search.config import MNIST_CRNN_2016, TrialConfig
    from crnn_search.data import derive_seed, draw_table, split_images

    values = config or MNIST_CRNN_2016.to_dict() | {"batch_size": 128, "dropout": 0.0}
    digits = mnist.load(data_dir)
    pool, images = split_images(digits.labels)
    table = draw_table(
        images[: SEQUENCES // 6], digits.labels, SEQUENCES // 3, MAX_DIGITS,
        derive_seed("validation"),
    )  # fmt: skip
    state = engine.start(
        TrialConfig.from_dict(values), seed=0, epochs=5, device=torch.device("cpu")
    )
    training = engine.train(state, engine.TrainingData(digits, pool, table, SEQUENCES, MAX_DIGITS))
    next(training)
    whole = [next(training).seconds for _ in range(3)]
    found: dict[str, float] = defaultdict(float)
    with kernels_named(), profile(activities=[ProfilerActivity.CPU]) as seen:
        began = time.perf_counter()
        next(training)
        spent = time.perf_counter() - began
    for event in seen.key_averages():
        found[part_of(event.key)] += event.self_cpu_time_total / 1e3
    found["Python, outside operations"] = max(0.0, 1e3 * spent - sum(found.values()))
    # The profiler's own time is in each part: shares are taken, of the time without it.
    total = sum(found.values())
    median = 1e3 * statistics.median(whole)
    return {part: value / total * median for part, value in found.items()} | {"whole": median}


def main() -> None:
    """Profile, print, write a section of `benchmarks/results/profile.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--package", type=Path, help="a checkout whose package is profiled")
    parser.add_argument("--name", default="after", help="of the section")
    options = parser.parse_args()
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # another package, or this one
        found = {
            name: pool.submit(epoch, config, options.data_dir, options.package).result()
            for name, config in NETWORKS.items()
        }
    from benchmarks.circumstances import circumstances  # not before: it imports this package
    from benchmarks.table import PAGE, replace_section

    about = circumstances(checkout=options.package or RESULTS.parents[2])
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known[options.name] = about | found
    RESULTS.write_text(json.dumps(known, indent=2) + "\n")
    text = markdown(known)
    replace_section(PAGE, "profile", text)
    print(text)


def markdown(known: dict[str, Any]) -> str:
    """A table of the sections that were profiled, and beneath it what they depend on."""
    from benchmarks.circumstances import in_words

    lines = [
        "| network | part | " + " | ".join(f"{name}, ms" for name in known) + " |",
        "| --- | --- | " + " | ".join("--:" for _ in known) + " |",
    ]
    for network in NETWORKS:
        columns = [section[network] for section in known.values()]
        parts = sorted(columns[0], key=columns[0].__getitem__, reverse=True)
        parts += [part for part in columns[-1] if part not in parts]
        for part in parts:
            times = " | ".join(f"{column.get(part, 0):,.0f}" for column in columns)
            lines.append(f"| {network} | {part} | {times} |")
    lines += [
        "",
        f"An epoch of {SEQUENCES:,} training and {SEQUENCES // 3:,} validation sequences.",
    ]
    lines += [f"{name}: {in_words(section)}." for name, section in known.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
