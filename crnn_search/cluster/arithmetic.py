"""One arithmetic for all trials of a run: what every node that runs them computes in."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from crnn_search.cluster.nodes import Node, NoResult, nodes, run_on_nodes
from crnn_search.cluster.resources import Allocation, count_fitting
from crnn_search.hyperparameters import Arithmetic
from crnn_search.kernels import native
from crnn_search.spaces.sections import ResourcesSpec
from crnn_search.training.device import pick_device, supports_bfloat16

PROBE_TIMEOUT_S = 180.0
"""Longer than the compiler may take."""

PROBE_GPUS = 0.01
"""Share of a GPU that a probe holds, so that Ray makes CUDA visible to it."""


@dataclass(frozen=True)
class Ability:
    """What trials on a node can compute in.

    bfloat16: natively. kernels_problem: why it has no compiled kernels, or None.
    """

    node: str
    bfloat16: bool
    kernels_problem: str | None


def resolve_arithmetic(
    resources: ResourcesSpec, allocation: Allocation, on_note: Callable[[str], None]
) -> Arithmetic:
    """The arithmetic of all trials of a run: as the space states, else what every node can.

    on_note: called with messages on the choice for the user.
    """
    on_gpus = allocation.gpus > 0
    if resources.precision == "float32" and (resources.cpu_kernels == "off" or on_gpus):
        return Arithmetic("float32", cpu_kernels=False)
    return common_arithmetic(resources, _abilities(allocation, on_note), on_gpus, on_note)


def common_arithmetic(
    resources: ResourcesSpec,
    abilities: Sequence[Ability],
    on_gpus: bool,
    on_note: Callable[[str], None],
) -> Arithmetic:
    """As `resources` states, else what each of these nodes can; without a node, float32."""
    unable = [ability.node for ability in abilities if not ability.bfloat16]
    if resources.precision != "auto":
        precision = resources.precision
        if precision == "bfloat16" and unable:
            on_note(f"resources.precision: bfloat16 is emulated, which is slow, on {_list(unable)}")
    elif abilities and not unable:
        precision = "bfloat16"
    else:
        precision = "float32"
        if 0 < len(unable) < len(abilities):
            on_note(
                f"all trials compute in float32: {_list(unable)} has no native bfloat16; "
                "resources.precision: bfloat16 would emulate it there"
            )
    if on_gpus or resources.cpu_kernels == "off":
        return Arithmetic(precision, cpu_kernels=False)
    without = [a for a in abilities if a.kernels_problem is not None]
    if without:
        reasons = "; ".join(f"{a.node}: {a.kernels_problem}" for a in without)
        on_note(f"all trials run without compiled kernels, which is slower: {reasons}")
    return Arithmetic(precision, cpu_kernels=bool(abilities) and not without)


def trial_device(gpus: float) -> torch.device:
    """The device that a trial uses in this process. gpus: the share of a GPU that it was given."""
    device = pick_device()
    return torch.device("cpu") if device.type == "cuda" and not gpus else device


def probe_ability(gpus: float) -> Ability:
    """What trials with this share of a GPU can compute in, in this process. Compiles kernels."""
    device = trial_device(gpus)
    on_cpu = device.type == "cpu"
    problem = native.problem() if on_cpu else f"trials run on its {device.type}"
    return Ability(platform.node(), supports_bfloat16(device), problem)


def _abilities(allocation: Allocation, on_note: Callable[[str], None]) -> list[Ability]:
    """Of the nodes that run trials, probed at once; one that does not answer can do nothing."""
    alive, gpus = nodes(), min(allocation.gpus, PROBE_GPUS)
    if len(alive) == 1 and not alive[0].gpus and alive[0].name == platform.node():
        return [probe_ability(0.0)]  # this machine: no process need be started
    targets = _nodes_to_probe(alive, allocation, on_note)
    answers = run_on_nodes(targets, probe_ability, gpus, gpus=gpus, timeout_s=PROBE_TIMEOUT_S)
    found = []
    for node, answer in answers:
        if isinstance(answer, NoResult):
            on_note(f"{node.name} does not tell what it can compute in: {answer.reason}")
            answer = Ability(node.name, bfloat16=False, kernels_problem=answer.reason)
        found.append(answer)
    return found


def _nodes_to_probe(
    alive: Sequence[Node], allocation: Allocation, on_note: Callable[[str], None]
) -> list[Node]:
    """The nodes that run trials; before any has joined, those that are there."""
    able = [node for node in alive if count_fitting([node], allocation.cpus, allocation.gpus)]
    if able:
        return able
    if allocation.gpus:
        on_note(
            "no node with a GPU has joined yet: unless resources.precision is stated, all trials "
            "compute in float32"
        )
        return []
    on_note("no node that runs trials has joined yet: all trials compute as the others can")
    return list(alive)


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)
