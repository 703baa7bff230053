"""How fast trials train on this cluster, measured before the first one starts."""

from __future__ import annotations

import platform

import ray
import torch

from crnn_search.cluster.arithmetic import PROBE_GPUS, PROBE_TIMEOUT_S, trial_device
from crnn_search.cluster.gpu_share import ProbeWork
from crnn_search.cluster.nodes import nodes, run_on_nodes
from crnn_search.cluster.resources import Allocation, count_fitting
from crnn_search.data.task import Task
from crnn_search.errors import ConfigError
from crnn_search.hyperparameters import Arithmetic, TrainingSpec, TrialConfig
from crnn_search.spaces.space import SearchSpace, sample
from crnn_search.training.footprint import peak_memory_mb
from crnn_search.training.probe import pace_of

DRAWS = 100


def measure_pace(
    space: SearchSpace, task: Task, allocation: Allocation, arithmetic: Arithmetic
) -> float | None:
    """Seconds for a training sequence of a network of middle size; None if it cannot be measured.

    Measured on one node that runs trials. task: on the CPU.
    """
    config = middle(space)
    able = [node for node in nodes() if count_fitting([node], allocation.cpus, allocation.gpus)]
    if config is None or not able:
        return None
    work = ProbeWork((config,), space.search.epoch_sequences, arithmetic)
    if not allocation.gpus and any(node.name == platform.node() for node in able):
        return _pace(work, task, allocation)
    arguments = (work, ray.put(task), allocation)
    gpus = min(allocation.gpus, PROBE_GPUS)
    answers = run_on_nodes(able[:1], _pace, *arguments, gpus=gpus, timeout_s=PROBE_TIMEOUT_S)
    return next((answer for _, answer in answers if isinstance(answer, float)), None)


def middle(space: SearchSpace) -> TrialConfig | None:
    """The configuration of middle size of those to try first and of some random ones."""
    found: list[tuple[float, TrialConfig]] = []
    for values in [*space.first[:DRAWS], *sample(space, space.search.seed, DRAWS)]:
        try:
            config = TrialConfig.from_dict(values)
            config.model.check(space.shape, space.search.max_parameters)
        except ConfigError:
            continue
        of_one_image = TrialConfig(config.model, TrainingSpec(batch_size=1))
        found.append((peak_memory_mb(of_one_image, space.shape, longest=1), config))
    found.sort(key=lambda pair: pair[0])
    return found[len(found) // 2][1] if found else None


def _pace(work: ProbeWork, task: Task, allocation: Allocation) -> float:
    """Measure in this process, with as many threads as a trial has."""
    device, threads = trial_device(allocation.gpus), torch.get_num_threads()
    torch.set_num_threads(max(1, int(allocation.cpus)))
    try:
        (config,) = work.configs
        return pace_of(config, task.to(device), work.epoch_sequences, work.arithmetic)
    finally:
        torch.set_num_threads(threads)
