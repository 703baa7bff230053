"""What a space's largest network takes of a GPU, measured before the search.

Rests on the estimate of `footprint` only to say which of the drawn configurations is largest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import ray
import torch

from crnn_search.cluster import gpu_share
from crnn_search.cluster.connection import nodes
from crnn_search.data.sequences import Digits, shared_tensor, training_table
from crnn_search.errors import ConfigError
from crnn_search.hyperparameters import TrialConfig
from crnn_search.spaces.space import SearchSpace, sample
from crnn_search.training import engine, memory, predict
from crnn_search.training.engine import TrainingData
from crnn_search.training.footprint import peak_memory_mb

DRAWN = 200
MARGIN = 1.2
MAX_PER_GPU = 16
"""Trials on one GPU: more would share too few of its processors."""


@dataclass(frozen=True)
class Reading:
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
        """In one line."""
        helped = "runs" if self.mps else "does not run: trials take turns on the GPU"
        return (
            f"{self.gpu}: the largest of {DRAWN} drawn configurations takes {self.peak_mb:,.0f} of "
            f"{self.total_mb:,.0f} MB, so {1 / self.share:.0f} trials share it; MPS {helped}"
        )


def largest(space: SearchSpace) -> TrialConfig | None:
    """The largest of some configurations drawn from a space; None if all are impossible."""
    found: list[tuple[float, TrialConfig]] = []
    for values in sample(space, space.search.seed, DRAWN):
        try:
            config = TrialConfig.from_dict(values)
        except ConfigError:
            continue
        longest = min(config.training.max_sequence_length, space.task.max_digits)
        found.append((peak_memory_mb(config.model, config.training.batch_size, longest), config))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def measure(config: TrialConfig, digits: Digits, max_digits: int, device: torch.device) -> float:
    """Memory in MB that a few steps and an evaluation take on a device."""
    labels, pool = digits.labels.cpu(), torch.arange(len(digits.labels))
    table = training_table(pool, labels, predict.ADDING_CHUNK, max_digits, 0, 0)
    data = TrainingData(digits, pool, table, 4 * config.training.batch_size, max_digits)
    next(engine.train(engine.start(config, seed=0, epochs=1, device=device), data))
    return memory.reserved_mb(device)


def read(config: TrialConfig, digits: Digits, max_digits: int) -> Reading | None:
    """Measure on this process's GPU; None without one, or if not even one trial fits."""
    if not torch.cuda.is_available():
        return None
    device = torch.device("cuda")
    try:
        peak_mb = measure(config, digits.to(device), max_digits, device)
    except torch.OutOfMemoryError:
        return None
    properties = torch.cuda.get_device_properties(device)
    return Reading(properties.name, properties.total_memory / 1e6, peak_mb, memory.mps_runs())


def share_of(peak_mb: float, total_mb: float) -> float:
    """A whole part of a GPU, 1 to `MAX_PER_GPU`, that holds a trial; rounded down as Ray counts."""
    needed_mb = MARGIN * peak_mb + memory.GPU_CONTEXT_MB
    fitting = min(MAX_PER_GPU, max(1, math.floor(total_mb / needed_mb)))
    return math.floor(1e4 / fitting) / 1e4


ASKED_GPU, GPU_TIMEOUT_S = 0.01, 180.0


def read_gpu(space: SearchSpace, digits: Digits) -> Reading | None:
    """What a trial of this space takes of a GPU; None if the cluster has none that can be asked.

    Takes next to nothing of a GPU that other trials use, and gives up when all of it is taken.
    """
    config = gpu_share.largest(space)
    if config is None or not any(node["gpus"] for node in nodes()):
        return None
    task = ray.remote(_read_gpu).options(num_cpus=0, num_gpus=ASKED_GPU, max_retries=0)
    answer = task.remote(
        config, digits.images.numpy(), digits.labels.numpy(), space.task.max_digits
    )
    try:
        reading: Reading | None = ray.get(answer, timeout=GPU_TIMEOUT_S)
    except ray.exceptions.RayError:
        ray.cancel(answer, force=True)
        return None
    return reading


def _read_gpu(config: TrialConfig, images: Any, labels: Any, max_digits: int) -> Reading | None:
    return gpu_share.read(config, Digits(shared_tensor(images), shared_tensor(labels)), max_digits)
