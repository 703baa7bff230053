"""PyTorch's optimizers with decoupled weight decay, and their learning-rate schedule."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer, RMSprop

from crnn_search.hyperparameters import TrainingSpec

WARM_UP = 0.25
"""Share of a one-cycle schedule in which the learning rate rises."""


class _Uncompiled(Optimizer):
    """Methods of PyTorch's optimizers without what imports `torch._dynamo` around them.

    That compiler is not used here; it takes each process that trains two seconds and 150 MB.
    """

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)


class _AdamW(_Uncompiled, AdamW):
    """PyTorch's AdamW."""

    step = torch.no_grad()(inspect.unwrap(AdamW.step))


class RMSpropW(_Uncompiled, RMSprop):
    """RMSprop with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101).

    As in AdamW, a step multiplies each weight by `1 - lr * decay` before it applies the gradients;
    PyTorch's RMSprop adds the decay to the gradients, so that its averages scale it.
    """

    _undecayed_step = inspect.unwrap(RMSprop.step)

    def __init__(
        self, parameters: Any, lr: float | Tensor, *, decay: float, **options: Any
    ) -> None:
        super().__init__(parameters, lr, weight_decay=0.0, **options)
        self._decay = decay

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Decay the weights, then apply their gradients."""
        if self._decay:
            for group in self.param_groups:
                factor = 1 - group["lr"] * self._decay
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.mul_(factor)
        return self._undecayed_step(closure)


def make(spec: TrainingSpec, model: nn.Module, device: torch.device) -> Optimizer:
    """The optimizer of a configuration.

    On CUDA its steps can be captured in a graph, so its learning rate is a tensor.
    """
    on_cuda = device.type == "cuda"
    lr = torch.tensor(spec.learning_rate, device=device) if on_cuda else spec.learning_rate
    if spec.optimizer == "adamw":
        return _AdamW(
            model.parameters(), lr, weight_decay=spec.weight_decay, fused=True, capturable=on_cuda
        )
    # Keras's defaults, as the demonstration used them: rho 0.9, epsilon 1e-7.
    return RMSpropW(
        model.parameters(), lr, decay=spec.weight_decay, alpha=0.9, eps=1e-7, capturable=on_cuda
    )


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate of all parameters; in place if it is a tensor."""
    for group in optimizer.param_groups:
        if torch.is_tensor(group["lr"]):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def step(optimizer: Optimizer, gradient_clip: float) -> None:
    """Limit the norm of all gradients to `gradient_clip`, unless that is 0, and apply them."""
    if gradient_clip:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, gradient_clip)
    optimizer.step()


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
