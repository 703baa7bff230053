"""The share of a GPU that one trial gets: measured, before the search, on its largest networks.

The estimate of `training.footprint` only says which of some random configurations are measured: it
knows the training step's activations, but neither libraries' workspaces nor a validation. So the
largest few by estimate are measured, and the highest figure counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import ray
import torch

from crnn_search.cluster.arithmetic import PROBE_GPUS, resolve_arithmetic
from crnn_search.cluster.nodes import Node, NoResult, nodes, run_on_nodes
from crnn_search.cluster.resources import Allocation, allocate, count_fitting
from crnn_search.data.task import Task
from crnn_search.errors import InputError
from crnn_search.hyperparameters import Arithmetic, TrialConfig
from crnn_search.spaces.space import SearchSpace, feasible, sample
from crnn_search.text import first_line
from crnn_search.training import memory
from crnn_search.training.footprint import peak_memory_mb
from crnn_search.training.probe import peak_of

DRAWS, MEASURED = 200, 3
"""Random configurations, and how many of them are measured."""

MARGIN = 1.2
MAX_PER_GPU = 16
"""Trials on one GPU: more would share too few of its processors."""

PROBE_TIMEOUT_S = 180.0


@dataclass(frozen=True)
class GpuProbe:
    """What was measured.

    peak_mb: of one trial, without CUDA's context; None if it did not fit. mps: whether MPS runs.
    """

    gpu: str
    total_mb: float
    peak_mb: float | None
    mps: bool

    @property
    def share(self) -> float:
        """The share of the GPU that one trial gets, so that as many as fit run at once."""
        return 1.0 if self.peak_mb is None else share_of(self.peak_mb, self.total_mb)

    def describe(self) -> str:
        """The measurement and the share, as a sentence for the user."""
        mps = "runs" if self.mps else "does not run: trials take turns on the GPU"
        largest = f"{self.gpu}: the largest of {DRAWS} random configurations"
        if self.peak_mb is None:
            return f"{largest} did not fit in its free memory, so a trial gets all of it; MPS {mps}"
        return (
            f"{largest} takes {self.peak_mb:,.0f} of {self.total_mb:,.0f} MB, so "
            f"{1 / self.share:.0f} trials share it; MPS {mps}"
        )


@dataclass(frozen=True)
class ProbeWork:
    """What is measured: networks, and the epochs that they train."""

    configs: tuple[TrialConfig, ...]
    epoch_sequences: int
    arithmetic: Arithmetic


def allocate_trials(
    space: SearchSpace, task: Task, on_note: Callable[[str], None], *, may_grow: bool = False
) -> tuple[Allocation, GpuProbe | None]:
    """What each trial gets of the cluster, and what was measured of its GPU, if it was.

    on_note: called with what was measured. may_grow: the cluster grows to hold more trials.

    Raises:
        InputError: no node has what one trial needs; or as `probe_gpu`.
    """
    resources = space.resources
    gpus, probe = resources.gpus_per_trial, None
    if gpus == "auto" and (probe := probe_gpu(space, task, on_note)):
        gpus = probe.share
        on_note(probe.describe())
    concurrent = space.search.max_concurrent_trials
    return allocate(resources.cpus_per_trial, gpus, concurrent, may_grow=may_grow), probe


def probe_gpu(space: SearchSpace, task: Task, on_note: Callable[[str], None]) -> GpuProbe | None:
    """Measure what a trial of this space takes of a GPU; None if no GPU can be measured.

    Measures one GPU of each kind at once, and returns the measurement with the largest share: that
    share fits on all of them. Takes 1 % of a GPU, which other trials may use, and gives up if none
    has that much free.

    on_note: called with the reason why a GPU cannot be measured, and with what unlike GPUs gave.

    Raises:
        InputError: the measurement itself failed, as any trial would.
    """
    configs, cpus = largest(space), space.resources.cpus_per_trial
    targets = one_of_each_kind(nodes(), cpus)
    if not configs or not targets:
        return None
    arithmetic = resolve_arithmetic(space.resources, Allocation(cpus, PROBE_GPUS, 1), _ignore)
    work = ProbeWork(configs, space.search.epoch_sequences, arithmetic)
    found = []
    for node, answer in run_on_nodes(
        targets, _probe, work, ray.put(task), gpus=PROBE_GPUS, timeout_s=PROBE_TIMEOUT_S
    ):
        if isinstance(answer, str):
            raise InputError(
                f"measuring what a trial takes of a GPU of {node.name} failed: {answer}; repair "
                "it, or state the share with --set resources.gpus_per_trial=SHARE, 0 to train on "
                "CPUs"
            )
        if isinstance(answer, GpuProbe):
            found.append(answer)
        else:
            reason = answer.reason if isinstance(answer, NoResult) else "it has no CUDA"
            on_note(f"no GPU of {node.name} could be measured: {reason}")
    return _deciding(found, on_note) if found else None


def _deciding(probes: Sequence[GpuProbe], on_note: Callable[[str], None]) -> GpuProbe:
    """The measurement with the largest share; a note on each of the others."""
    decides = max(probes, key=lambda probe: probe.share)
    for probe in probes:
        if probe is not decides:
            on_note(f"{probe.describe()}. {decides.gpu} decides: the share must fit on all GPUs")
    return decides


def one_of_each_kind(alive: Sequence[Node], cpus: float) -> list[Node]:
    """Of the nodes with a GPU that can run trials, one for each kind of GPU.

    A GPU whose kind Ray does not know counts as a kind of its own.
    """
    found: dict[str, Node] = {}
    for node in alive:
        if node.gpus and count_fitting([node], cpus, PROBE_GPUS):
            found.setdefault(node.gpu_kind or node.id, node)
    return list(found.values())


def largest(space: SearchSpace) -> tuple[TrialConfig, ...]:
    """The largest of some random configurations of a space, by estimate, largest first.

    Empty if all are infeasible.
    """
    drawn = dict.fromkeys(feasible(space, sample(space, space.search.seed, DRAWS)))
    estimates = {c: peak_memory_mb(c, space.shape, space.images.longest) for c in drawn}
    return tuple(sorted(estimates, key=estimates.__getitem__, reverse=True))[:MEASURED]


def share_of(peak_mb: float, total_mb: float) -> float:
    """A whole part of a GPU, 1 to `MAX_PER_GPU`, that holds a trial; rounded down as Ray counts."""
    needed_mb = MARGIN * peak_mb + memory.GPU_CONTEXT_MB
    fitting = min(MAX_PER_GPU, max(1, math.floor(total_mb / needed_mb)))
    return math.floor(1e4 / fitting) / 1e4


def _probe(work: ProbeWork, task: Task) -> GpuProbe | str | None:
    """Measure on this process's GPU; None without one, text if a trial would fail."""
    if not torch.cuda.is_available():
        return None
    device = torch.device("cuda", torch.cuda.current_device())
    on_device, sequences = task.to(device), work.epoch_sequences
    peak_mb: float | None
    try:
        peak_mb = max(peak_of(c, on_device, sequences, work.arithmetic) for c in work.configs)
    except torch.OutOfMemoryError:
        peak_mb = None
    except Exception as error:
        return f"{type(error).__name__}: {first_line(error)}"
    properties = torch.cuda.get_device_properties(device)
    return GpuProbe(properties.name, properties.total_memory / 1e6, peak_mb, memory.mps_runs())


def _ignore(note: str) -> None:
    """The search resolves the arithmetic again, and then tells."""
