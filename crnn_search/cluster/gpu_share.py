"""The share of a GPU that one trial gets: measured, before the search, on its largest network.

The estimate of `training.footprint` only says which of some random configurations is largest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import ray
import torch

from crnn_search.cluster.nodes import nodes, reason_of
from crnn_search.data.sequences import Digits, shared_tensor, training_table
from crnn_search.errors import ConfigError, InputError
from crnn_search.hyperparameters import Arithmetic, TrialConfig
from crnn_search.spaces.space import SearchSpace, sample
from crnn_search.training import engine, memory, predict
from crnn_search.training.device import supports_bfloat16
from crnn_search.training.engine import TrainingData
from crnn_search.training.footprint import peak_memory_mb

DRAWS = 200
MARGIN = 1.2
MAX_PER_GPU = 16
"""Trials on one GPU: more would share too few of its processors."""

PROBE_GPUS, PROBE_TIMEOUT_S = 0.01, 180.0


@dataclass(frozen=True)
class GpuProbe:
    """What was measured. peak_mb: of one trial, without CUDA's context. mps: whether it runs."""

    gpu: str
    total_mb: float
    peak_mb: float
    mps: bool

    @property
    def share(self) -> float:
        """The share of the GPU that one trial gets, so that as many as fit run at once."""
        return share_of(self.peak_mb, self.total_mb)

    def describe(self) -> str:
        """The measurement and the share, as a sentence for the user."""
        mps = "runs" if self.mps else "does not run: trials take turns on the GPU"
        return (
            f"{self.gpu}: the largest of {DRAWS} random configurations takes {self.peak_mb:,.0f} "
            f"of {self.total_mb:,.0f} MB, so {1 / self.share:.0f} trials share it; MPS {mps}"
        )


def probe_gpu(
    space: SearchSpace, digits: Digits, on_note: Callable[[str], None]
) -> GpuProbe | None:
    """Measure what a trial of this space takes of a GPU; None if no GPU can be measured.

    Takes 1 % of a GPU, which other trials may use, and gives up if none has that much free.

    on_note: called with the reason why none of the cluster's GPUs can be measured.

    Raises:
        InputError: the measurement itself failed, as any trial would.
    """
    config = largest(space)
    if config is None or not any(node.gpus for node in nodes()):
        return None
    task = ray.remote(_probe).options(num_cpus=0, num_gpus=PROBE_GPUS, max_retries=0)
    images, labels = digits.images.numpy(), digits.labels.numpy()
    answer = task.remote(config, space.resources.precision, images, labels, space.task.max_digits)
    probe: GpuProbe | None = None
    try:
        probe = ray.get(answer, timeout=PROBE_TIMEOUT_S)
        reason = "it has no CUDA, or too little free memory"
    except ray.exceptions.RayTaskError as error:
        raise InputError(
            f"measuring what a trial takes of a GPU failed: {reason_of(error)}; repair it, or "
            "state the share with --set resources.gpus_per_trial=SHARE, 0 to train on CPUs"
        ) from error
    except ray.exceptions.GetTimeoutError:
        ray.cancel(answer, force=True)
        reason = f"none is free within {PROBE_TIMEOUT_S:.0f} s"
    except ray.exceptions.RayError as error:
        reason = reason_of(error)
    if probe is None:
        on_note(f"no GPU could be measured: {reason}")
    return probe


def largest(space: SearchSpace) -> TrialConfig | None:
    """The largest of some random configurations of a space; None if all are infeasible."""
    found: list[tuple[float, TrialConfig]] = []
    for values in sample(space, space.search.seed, DRAWS):
        try:
            config = TrialConfig.from_dict(values)
        except ConfigError:
            continue
        longest = min(config.training.max_sequence_length, space.task.max_digits)
        found.append((peak_memory_mb(config.model, config.training.batch_size, longest), config))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def share_of(peak_mb: float, total_mb: float) -> float:
    """A whole part of a GPU, 1 to `MAX_PER_GPU`, that holds a trial; rounded down as Ray counts."""
    needed_mb = MARGIN * peak_mb + memory.GPU_CONTEXT_MB
    fitting = min(MAX_PER_GPU, max(1, math.floor(total_mb / needed_mb)))
    return math.floor(1e4 / fitting) / 1e4


def peak_of(config: TrialConfig, digits: Digits, max_digits: int, arithmetic: Arithmetic) -> float:
    """Memory in MB that a few training steps and a validation take on the device of `digits`."""
    device = digits.images.device
    labels, pool = digits.labels.cpu(), torch.arange(len(digits.labels))
    table = training_table(pool, labels, predict.DECODE_CHUNK, max_digits, 0, 0)
    data = TrainingData(digits, pool, table, 4 * config.training.batch_size, max_digits)
    state = engine.start(config, seed=0, epochs=1, device=device, arithmetic=arithmetic)
    engine.train_epoch(state, data)
    return memory.reserved_mb(device)


def _probe(
    config: TrialConfig,
    precision: Literal["auto", "float32", "bfloat16"],
    images: Any,
    labels: Any,
    max_digits: int,
) -> GpuProbe | None:
    """Measure on this process's GPU; None without one, or if not even one trial fits."""
    if not torch.cuda.is_available():
        return None
    device = torch.device("cuda")
    if precision == "auto":
        precision = "bfloat16" if supports_bfloat16(device) else "float32"
    digits = Digits(shared_tensor(images), shared_tensor(labels))
    try:
        peak_mb = peak_of(config, digits.to(device), max_digits, Arithmetic(precision))
    except torch.OutOfMemoryError:
        return None
    properties = torch.cuda.get_device_properties(device)
    return GpuProbe(properties.name, properties.total_memory / 1e6, peak_mb, memory.mps_runs())
