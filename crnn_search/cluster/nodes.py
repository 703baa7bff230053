"""The nodes of the cluster: what each has, and tasks that run on each of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from crnn_search.kernels.processor import cpu_model
from crnn_search.text import first_line

GPU_KIND = "accelerator_type:"


@dataclass(frozen=True)
class Node:
    """A living node. id: Ray's. name: its host name. cpus: its cores.

    gpu_kind: as Ray calls its GPUs, `H100` for example; None where it does not know.
    """

    id: str
    name: str
    cpus: float
    gpus: float
    memory_gb: float
    gpu_kind: str | None = None


@dataclass(frozen=True)
class NoResult:
    """Why a node returned nothing."""

    reason: str


def nodes() -> list[Node]:
    """The cluster's living nodes."""
    return [
        Node(
            id=node["NodeID"],
            name=node["NodeManagerHostname"],
            cpus=node["Resources"].get("CPU", 0.0),
            gpus=node["Resources"].get("GPU", 0.0),
            memory_gb=round(node["Resources"].get("memory", 0.0) / 1e9, 1),
            gpu_kind=_gpu_kind(node["Resources"]),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def _gpu_kind(resources: Iterable[str]) -> str | None:
    """The kind that Ray declares as one more resource of a node."""
    found = (name.removeprefix(GPU_KIND) for name in resources if name.startswith(GPU_KIND))
    return next(found, None)


def hardware() -> list[dict[str, Any]]:
    """The living nodes as a manifest has them; the processor's name if there is only one."""
    alive = nodes()
    model = cpu_model() if len(alive) == 1 else None
    described = [asdict(node) | {"cpu_model": model} for node in alive]
    for node in described:
        del node["id"]
    return described


def run_on_nodes(
    targets: Sequence[Node],
    function: Callable[..., Any],
    *arguments: Any,
    gpus: float = 0.0,
    timeout_s: float,
) -> list[tuple[Node, Any]]:
    """Run a function on several nodes at once; returns each with its result or `NoResult`.

    gpus: share of a GPU that each call holds, which makes CUDA visible to it; its process ends with
    the call, so that it keeps no memory of the GPU. A node that left the cluster meanwhile is left
    out.
    """
    # Not by `options`: Ray ends a process that has used a GPU only if the function declares it.
    task = ray.remote(num_cpus=0, num_gpus=gpus)(function)
    answers = [
        task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
        ).remote(*arguments)
        for node in targets
    ]
    deadline = time.monotonic() + timeout_s
    found = []
    for node, answer in zip(targets, answers, strict=True):
        try:
            found.append((node, ray.get(answer, timeout=max(0.0, deadline - time.monotonic()))))
        except ray.exceptions.GetTimeoutError:
            ray.cancel(answer, force=True)
            found.append((node, NoResult(f"it does not answer within {timeout_s:.0f} s")))
        except ray.exceptions.RayError as error:
            if any(node.id == other.id for other in nodes()):
                found.append((node, NoResult(f"the task failed: {reason_of(error)}")))
    return found


def reason_of(error: ray.exceptions.RayError) -> str:
    """Why a task failed, in a line: the exception that it raised, if it did."""
    cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
    return f"{type(cause).__name__}: {first_line(cause)}"
