"""What each part of training computes, and how near that is to what the machine can.

`python -m benchmarks.roofline` measures this machine's rate of matrix products, then each part of a
step alone, forward and backward, on batches of 128 sequences of 1 to 8 images. Operations are those
that the network asks for: two for each product of a weight and an input, thrice in all for training
(once forward, once for each gradient; the first layer has none of its input). Bytes are those of
each part's inputs and outputs, read or written once.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.markdown import Markdown
from torch import Tensor

from benchmarks.circumstances import circumstances, in_words
from benchmarks.table import PAGE, replace_section
from benchmarks.work import MAX_DIGITS, NETWORKS
from crnn_search import engine, layers, matrices, memory, mnist, optimizers, recurrence
from crnn_search.config import IMAGE_SIZE, ModelSpec, TrialConfig
from crnn_search.data import Batch, Digits, split_images, training_table, validation_table

RESULTS = Path(__file__).parent / "results" / "roofline.json"
CPU = torch.device("cpu")
REPEATS = 20


@dataclass(frozen=True)
class Part:
    """A part of training. operations, bytes: of one sequence. run: does it once for a batch."""

    name: str
    operations: float
    bytes: float
    run: Callable[[], object]
    sequences: int


def seconds(run: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median time of a call, after two that prepare kernels."""
    times = []
    for _ in range(repeats + 2):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times[2:])


def product_rate(precision: str) -> float:
    """Operations a second of a product of two 1,024 × 1,024 matrices, one core."""
    size = 1024
    one, other = torch.randn(2, size, size).to(_numbers(precision))
    if precision == "int16":
        return 2 * size**3 / seconds(lambda: matrices.product(one, other))
    return 2 * size**3 / seconds(lambda: one @ other)


def _numbers(precision: str) -> torch.dtype:
    """What maps are kept in."""
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def copy_rate() -> float:
    """Bytes a second, read and written, of copying 64 MiB."""
    source = torch.zeros(2**26, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * len(source) / seconds(lambda: target.copy_(source))


def maps(spec: ModelSpec) -> list[tuple[int, int, int]]:
    """Of each layer: operations of its convolution, numbers in and numbers out, for one image."""
    found = []
    size, inputs = IMAGE_SIZE, 1
    for width, kernel, pool in spec.layers():
        full = size if spec.padding == "same" else size - kernel + 1
        operations = 2 * kernel**2 * inputs * width * full**2
        found.append((operations, inputs * size**2, width * (full // pool) ** 2))
        size, inputs = full // pool, width
    return found


def gradient_of(run: Callable[[], Tensor]) -> Callable[[], None]:
    """Run forward, and backward from a gradient of ones."""
    return lambda: run().sum().backward()


def parts(config: TrialConfig, digits: Digits) -> list[Part]:
    """The parts of a step, and evaluation."""
    state = engine.start(config, seed=0, epochs=1, device=CPU)
    pool, _ = split_images(digits.labels)
    size = config.training.batch_size
    (batch,) = training_table(pool, digits.labels, size, MAX_DIGITS, 0, 0).batches(size)
    precision = engine.resolve_precision(config.training.precision, CPU)
    return [
        *_encoder_parts(config, state, digits.images[batch.images], precision, size),
        *_recurrent_parts(config, state, batch, precision, size),
        _optimizer_part(state, size),
        _evaluation_part(config, state, digits, precision),
    ]


def _encoder_parts(
    config: TrialConfig,
    state: engine.TrainState,
    images: Tensor,
    precision: str,
    size: int,
) -> list[Part]:
    numbers = _numbers(precision)
    model, per_sequence = state.model.train(), len(images) / size
    first, *others = maps(config.model)
    wide = numbers.itemsize
    (outer, *within), embedding = layers.parts(model.encoder, config.model)
    inner = layers.first_layer(outer, images, 1 / 255, numbers).detach().requires_grad_()

    def run_stem() -> Tensor:
        return layers.first_layer(outer, images, 1 / 255, numbers)

    def run_layers() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=numbers == torch.bfloat16):
            found = inner
            for layer in within:
                found = layers.inner_layer(layer, found, precision)
            return layers.flatten(found, embedding, precision)

    return [
        Part(
            "first layer",
            2 * first[0] * per_sequence,
            2 * (first[1] + first[2] * wide) * per_sequence,
            gradient_of(run_stem),
            size,
        ),
        Part(
            "other layers",
            3 * sum(layer[0] for layer in others) * per_sequence,
            2 * wide * sum(layer[1] + layer[2] for layer in others) * per_sequence,
            gradient_of(run_layers),
            size,
        ),
    ]


def _recurrent_parts(
    config: TrialConfig, state: engine.TrainState, batch: Batch, precision: str, size: int
) -> list[Part]:
    rows, model = len(batch.images), state.model
    widths = (model.feature_size, *config.model.gru_sizes)
    inputs = [torch.randn(rows, width).requires_grad_() for width in widths[:-1]]
    inputs[0] = inputs[0].detach().to(_numbers(precision)).requires_grad_()
    gates = [torch.randn(rows, 3 * width).requires_grad_() for width in widths[1:]]
    _, *others = grus = engine._grus(model)

    def project() -> Tensor:
        parts = [engine._project(model, inputs[0], precision, True).sum()]
        parts += [
            F.linear(v, *recurrence.of_input(gru)).sum()
            for gru, v in zip(others, inputs[1:], strict=True)
        ]
        return torch.stack(parts)

    def recur() -> Tensor:
        ran = [recurrence.run(g, v, batch.batch_sizes) for g, v in zip(grus, gates, strict=True)]
        return torch.stack([states.sum() + last.sum() for states, last in ran])

    pairs = list(itertools.pairwise(widths))
    return [
        Part(
            "input projection",
            3 * sum(2 * a * 3 * b for a, b in pairs) * rows / size,
            2 * 4 * sum(a + 3 * b for a, b in pairs) * rows / size,
            gradient_of(project),
            size,
        ),
        Part(
            "recurrence",
            3 * sum(2 * b * 3 * b for _, b in pairs) * rows / size,
            2 * 4 * sum(4 * b for _, b in pairs) * rows / size,
            gradient_of(recur),
            size,
        ),
    ]


def _optimizer_part(state: engine.TrainState, size: int) -> Part:
    parameters = list(state.model.parameters())
    count = sum(parameter.numel() for parameter in parameters)
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)

    def update() -> None:
        optimizers.step(state.optimizer, 1.0)

    return Part("clipping, optimizer", 12 * count / size, 4 * 6 * count / size, update, size)


def _evaluation_part(
    config: TrialConfig, state: engine.TrainState, digits: Digits, precision: str
) -> Part:
    table = validation_table(digits.labels, MAX_DIGITS)
    distinct = len(engine._distinct_images(table, len(digits.images))[0])
    model, widths = config.model, (state.model.feature_size, *config.model.gru_sizes)
    once = sum(layer[0] for layer in maps(model)) + 2 * widths[0] * 3 * widths[1]
    steps = int(table.lengths.sum())
    pairs = list(itertools.pairwise(widths))
    each = sum(2 * b * 3 * b for _, b in pairs) + sum(2 * a * 3 * b for a, b in pairs[1:])
    return Part(
        "evaluation",
        (once * distinct + each * steps) / len(table),
        4 * (distinct * 3 * widths[1] + steps * (4 * sum(widths[1:]))) / len(table),
        lambda: engine.predict(state.model, digits, table, precision=precision),
        len(table),
    )


def measure(digits: Digits) -> dict[str, Any]:
    """Every part of both networks."""
    found: dict[str, Any] = circumstances()
    fastest = engine.resolve_precision("auto", CPU)
    rates = {kind: product_rate(kind) for kind in dict.fromkeys(("float32", fastest))}
    rate, copied = rates[fastest], copy_rate()
    found["product_gflops"] = {kind: r / 1e9 for kind, r in rates.items()}
    found["copy_gb_per_s"] = copied / 1e9
    for name, values in NETWORKS.items():
        rows = {}
        for part in parts(TrialConfig.from_dict(values), digits):
            repeats = 3 if part.name == "evaluation" else REPEATS
            spent = seconds(part.run, repeats) / part.sequences
            rows[part.name] = {
                "operations": part.operations,
                "bytes": part.bytes,
                "microseconds": 1e6 * spent,
                "share_of_products": part.operations / spent / rate,
                "share_of_copying": part.bytes / spent / copied,
            }
        found[name] = rows
    return found


def markdown(found: dict[str, Any]) -> str:
    """A table of all parts, and beneath it what the shares are of."""
    lines = [
        "| network | part | Mflop | kB | µs | of products | of copying |",
        "| --- | --- | --: | --: | --: | --: | --: |",
    ]
    for network in NETWORKS:
        for part, row in found[network].items():
            cells = [
                network,
                part,
                f"{row['operations'] / 1e6:.2f}",
                f"{row['bytes'] / 1e3:.0f}",
                f"{row['microseconds']:.1f}",
                f"{row['share_of_products']:.0%}",
                f"{row['share_of_copying']:.0%}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    rates = found["product_gflops"].items()
    lines += [
        "",
        "One sequence, one core, medians. Products of matrices: "
        + ", ".join(f"{rate:.0f} Gflop/s in {kind}" for kind, rate in rates)
        + f" (shares are of the last); copying {found['copy_gb_per_s']:.1f} GB/s, read and "
        f"written. {in_words(found)}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure; write `benchmarks/results/roofline.json` and its section of docs/benchmarks.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    memory.keep_freed()  # as in a trial's process
    found = measure(mnist.load(arguments.data_dir))
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    text = markdown(found)
    replace_section(PAGE, "roofline", text)
    Console().print(Markdown(text))


if __name__ == "__main__":
    main()
