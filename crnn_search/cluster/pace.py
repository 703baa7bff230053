"""How fast trials train on this cluster, measured before the first one starts."""

from __future__ import annotations

import platform
from typing import Any

import ray
import torch

from crnn_search.cluster.arithmetic import PROBE_GPUS, PROBE_TIMEOUT_S, trial_device
from crnn_search.cluster.gpu_share import ProbeTask
from crnn_search.cluster.nodes import nodes, run_on_nodes
from crnn_search.cluster.resources import Allocation, count_fitting
from crnn_search.data.sequences import Digits, shared_tensor
from crnn_search.errors import ConfigError
from crnn_search.hyperparameters import MNIST_SHAPE, Arithmetic, TrialConfig
from crnn_search.spaces.space import SearchSpace, sample
from crnn_search.training.footprint import peak_memory_mb
from crnn_search.training.probe import pace_of

DRAWS = 100


def measure_pace(
    space: SearchSpace, digits: Digits, allocation: Allocation, arithmetic: Arithmetic
) -> float | None:
    """Seconds for a training sequence of a network of middle size; None if it cannot be measured.

    Measured on one node that runs trials. digits: all training images, on the CPU.
    """
    config = middle(space)
    able = [node for node in nodes() if count_fitting([node], allocation.cpus, allocation.gpus)]
    if config is None or not able:
        return None
    task = ProbeTask((config,), space.search.epoch_sequences, space.task.max_digits, arithmetic)
    if not allocation.gpus and any(node.name == platform.node() for node in able):
        return _pace(task, digits.images, digits.labels, allocation)
    images, labels = ray.put(digits.images.numpy()), ray.put(digits.labels.numpy())
    arguments = (task, images, labels, allocation)
    gpus = min(allocation.gpus, PROBE_GPUS)
    answers = run_on_nodes(able[:1], _pace, *arguments, gpus=gpus, timeout_s=PROBE_TIMEOUT_S)
    return next((answer for _, answer in answers if isinstance(answer, float)), None)


def middle(space: SearchSpace) -> TrialConfig | None:
    """The configuration of middle size of those to try first and of some random ones."""
    found: list[tuple[float, TrialConfig]] = []
    for values in [*space.first[:DRAWS], *sample(space, space.search.seed, DRAWS)]:
        try:
            config = TrialConfig.from_dict(values)
            config.model.check(MNIST_SHAPE)
        except ConfigError:
            continue
        found.append((peak_memory_mb(config.model, MNIST_SHAPE, 1, 1), config))
    found.sort(key=lambda pair: pair[0])
    return found[len(found) // 2][1] if found else None


def _pace(task: ProbeTask, images: Any, labels: Any, allocation: Allocation) -> float:
    """Measure in this process, with as many threads as a trial has."""
    device, threads = trial_device(allocation.gpus), torch.get_num_threads()
    digits = Digits(shared_tensor(images), shared_tensor(labels)).to(device)
    torch.set_num_threads(max(1, int(allocation.cpus)))
    try:
        (config,) = task.configs
        return pace_of(config, digits, task.epoch_sequences, task.max_digits, task.arithmetic)
    finally:
        torch.set_num_threads(threads)
