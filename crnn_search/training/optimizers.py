"""Optimizers, and a step of theirs with clipping: PyTorch's, or on a CPU one call of C.

The optimizers are PyTorch's own, moments included, so that checkpoints know nothing of it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer, RMSprop

from crnn_search.hyperparameters import TrainingSpec
from crnn_search.kernels import matrices, native


def make(spec: TrainingSpec, model: nn.Module, device: torch.device) -> Optimizer:
    """The optimizer of a configuration. On CUDA its steps can be captured, its rate is a tensor."""
    on_cuda = device.type == "cuda"
    rate: Any = torch.tensor(spec.learning_rate, device=device) if on_cuda else spec.learning_rate
    shared: dict[str, Any] = {"weight_decay": spec.weight_decay, "capturable": on_cuda}
    if spec.optimizer == "adamw":
        return AdamW(model.parameters(), rate, fused=True, **shared)
    # Keras's defaults, as the demonstration used them: rho 0.9, epsilon 1e-7.
    return RMSprop(model.parameters(), rate, alpha=0.9, eps=1e-7, **shared)


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """A captured step reads its learning rate from a tensor."""
    for group in optimizer.param_groups:
        if torch.is_tensor(group["lr"]):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def clear(optimizer: Optimizer) -> None:
    """Forget all gradients, without what PyTorch's own does for hooks and profilers."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def step(optimizer: Optimizer, clip: float) -> None:
    """Change the weights by their gradients, whose norm is first limited to `clip`; 0 does not."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if _in_c(optimizer, parameters):
        _step_in_c(optimizer, parameters, clip)
        return
    if clip:
        nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()


def _in_c(optimizer: Optimizer, parameters: list[Tensor]) -> bool:
    """Whether all is on a CPU that has kernels, and in the same order in memory."""
    return (
        parameters[0].device.type == "cpu"
        and native.problem() is None
        and all(p.grad is not None and p.grad.stride() == p.stride() for p in parameters)
    )


def _step_in_c(optimizer: Optimizer, parameters: list[Tensor], clip: float) -> None:
    (group,) = optimizer.param_groups
    states = [optimizer.state[p] or _begin(optimizer, p) for p in parameters]
    counts = [state["step"] for state in states]
    torch._foreach_add_(counts, 1)
    rule = {"rate": group["lr"], "decay": group["weight_decay"], "epsilon": group["eps"]}
    if isinstance(optimizer, AdamW):
        (first, second), done = group["betas"], counts[0].item()
        rule |= {"first": first, "first_bias": 1 - first**done, "second_bias": 1 - second**done}
        moments = [(state["exp_avg"], state["exp_avg_sq"]) for state in states]
    else:
        second = group["alpha"]
        moments = [(None, state["square_avg"]) for state in states]
    with torch.no_grad():
        matrices.update(parameters, moments, matrices.Rule(second=second, clip=clip, **rule))


def _begin(optimizer: Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """The state that a parameter begins with, as PyTorch makes it."""
    names = ("exp_avg", "exp_avg_sq") if isinstance(optimizer, AdamW) else ("square_avg",)
    state = {name: torch.zeros_like(parameter.detach()) for name in names}
    optimizer.state[parameter] = {"step": torch.zeros(()), **state}
    found: dict[str, Tensor] = optimizer.state[parameter]
    return found


WARM_UP = 0.25
"""Share of a one-cycle schedule in which the learning rate rises."""


def learning_rate_at(spec: TrainingSpec, progress: float) -> float:
    """The learning rate when the share `progress` of all steps is done.

    One cycle (Smith, arXiv:1708.07120): a cosine from 1/25 up to the full rate, then one down to
    1/1000 of it.
    """
    if spec.schedule == "constant":
        return spec.learning_rate
    if progress < WARM_UP:
        return spec.learning_rate * _cosine(1 / 25, 1.0, progress / WARM_UP)
    return spec.learning_rate * _cosine(1.0, 1e-3, (progress - WARM_UP) / (1 - WARM_UP))


def _cosine(first: float, last: float, progress: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2
