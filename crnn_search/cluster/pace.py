"""How fast trials train on this cluster, measured before the first one starts."""

from __future__ import annotations

import platform
from collections.abc import Sequence

import ray
import torch
from ray.util import ActorPool

from crnn_search.cluster.arithmetic import PROBE_GPUS, PROBE_TIMEOUT_S, trial_device
from crnn_search.cluster.gpu_share import ProbeWork
from crnn_search.cluster.nodes import nodes, reason_of, run_on_nodes
from crnn_search.cluster.resources import Allocation, count_fitting
from crnn_search.data.images import Progress
from crnn_search.data.task import Task
from crnn_search.errors import InputError
from crnn_search.hyperparameters import Arithmetic, TrainingSpec, TrialConfig
from crnn_search.kernels.processor import cpu_model
from crnn_search.spaces.space import SearchSpace, feasible, sample
from crnn_search.training.footprint import peak_memory_mb
from crnn_search.training.probe import Cost, cost_of, pace_of

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
    drawn = [*space.first[:DRAWS], *sample(space, space.search.seed, DRAWS)]

    def of_one_image(config: TrialConfig) -> float:
        alone = TrialConfig(config.model, TrainingSpec(batch_size=1))
        return peak_memory_mb(alone, space.shape, longest=1)

    found = sorted(feasible(space, drawn), key=of_one_image)
    return found[len(found) // 2] if found else None


def _pace(work: ProbeWork, task: Task, allocation: Allocation) -> float:
    """Measure in this process, with as many threads as a trial has."""
    device, threads = trial_device(allocation.gpus), torch.get_num_threads()
    torch.set_num_threads(max(1, int(allocation.cpus)))
    try:
        (config,) = work.configs
        return pace_of(config, task.to(device), work.epoch_sequences, work.arithmetic)
    finally:
        torch.set_num_threads(threads)


class CostProbe:
    """Measures what trials take, with what a trial is given; an actor, as a trial's process is."""

    def __init__(
        self, space: SearchSpace, task: Task, allocation: Allocation, arithmetic: Arithmetic
    ) -> None:
        self._device = trial_device(allocation.gpus)
        if self._device.type == "cpu":
            torch.set_num_threads(max(1, int(allocation.cpus)))
        self._task = task.to(self._device)
        self._space, self._arithmetic = space, arithmetic

    def device(self) -> str:
        """The name of the GPU or the processor."""
        if self._device.type == "cuda":
            return torch.cuda.get_device_name(self._device)
        return cpu_model() if self._device.type == "cpu" else self._device.type

    def cost(self, config: TrialConfig) -> tuple[TrialConfig, Cost]:
        """A configuration, and what a trial of it takes."""
        sequences = self._space.search.epoch_sequences, self._space.retrain.epoch_sequences
        return config, cost_of(config, self._task, sequences, self._arithmetic)


def measure_costs(
    configs: Sequence[TrialConfig],
    space: SearchSpace,
    task: Task,
    allocation: Allocation,
    arithmetic: Arithmetic,
    on_progress: Progress,
) -> tuple[list[Cost], str]:
    """What a trial of each configuration takes, and the name of the device.

    As many are measured at once as trials run at once, since they slow each other down: small ones
    first, so that the peak memory of a process is that of its last one.

    Raises:
        InputError: a measurement failed, as a trial would.
    """
    small_first = sorted(
        configs, key=lambda config: peak_memory_mb(config, space.shape, space.images.longest)
    )
    probe = ray.remote(num_cpus=allocation.cpus, num_gpus=allocation.gpus)(CostProbe)
    shared = ray.put(task)
    actors = [
        probe.remote(space, shared, allocation, arithmetic)
        for _ in range(min(allocation.concurrent, len(configs)))
    ]
    costs: dict[TrialConfig, Cost] = {}
    try:
        device = str(ray.get([actor.device.remote() for actor in actors])[0])
        found = ActorPool(actors).map_unordered(lambda a, c: a.cost.remote(c), small_first)
        for done, (config, cost) in enumerate(found, start=1):
            costs[config] = cost
            on_progress("measuring", done, len(configs))
    except ray.exceptions.RayError as error:
        raise InputError(f"measuring what a trial takes failed: {reason_of(error)}") from error
    return [costs[config] for config in configs], device
