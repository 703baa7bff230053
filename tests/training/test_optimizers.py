"""Steps in C against PyTorch's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from crnn_search.hyperparameters import TrainingSpec
from crnn_search.kernels import matrices, native
from crnn_search.training import optimizers

CPU = torch.device("cpu")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(5 * 4, 1000)).to(
        memory_format=torch.channels_last
    )


def train(spec: TrainingSpec, steps: int, scale: float = 1.0) -> nn.Sequential:
    """Some steps on random images, whose learning rate changes."""
    model = network()
    optimizer = optimizers.make(spec, model, CPU)
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(6, 3, 4, 4, generator=generator)
        optimizer.zero_grad(set_to_none=True)
        (model(images).square().mean() * scale).backward()
        optimizers.set_rate(optimizer, spec.learning_rate / (1 + step))
        optimizers.step(optimizer, spec.gradient_clip)
    return model


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
@pytest.mark.parametrize(
    "values", [{}, {"weight_decay": 0.1}, {"gradient_clip": 0.0}, {"gradient_clip": 1e-3}]
)
def test_steps_are_pytorchs(
    optimizer: str, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = TrainingSpec(optimizer=optimizer, learning_rate=0.01, **values)
    found = train(spec, 8)
    with monkeypatch.context() as patch:
        patch.setattr(native, "problem", lambda: "none here")
        expected = train(spec, 8)
    before = network()
    for one, other, first in zip(
        found.parameters(), expected.parameters(), before.parameters(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
        assert not torch.equal(one, first)


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_steps_are_in_c(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    update = matrices.update

    def counted(*arguments: Any) -> None:
        calls.append(arguments)
        update(*arguments)

    monkeypatch.setattr(matrices, "update", counted)
    train(TrainingSpec(optimizer=optimizer), 5)
    assert len(calls) == 5


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_a_step_continues_a_saved_state(optimizer: str) -> None:
    """Moments and counts of steps are PyTorch's: another optimizer goes on with them."""
    spec = TrainingSpec(optimizer=optimizer, weight_decay=0.1)
    model, gradients = network(), torch.Generator().manual_seed(5)
    first = optimizers.make(spec, model, CPU)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, values: torch.Tensor) -> None:
        for parameter, value in zip(
            model.parameters(), values.split([p.numel() for p in model.parameters()]), strict=True
        ):
            parameter.grad = torch.empty_like(parameter).copy_(value.view(parameter.shape))
        optimizers.step(optimizer, spec.gradient_clip)

    count = sum(p.numel() for p in model.parameters())
    draws = torch.randn(4, count, generator=gradients)
    for values in draws[:3]:
        step(model, first, values)
    other = copy.deepcopy(model)
    second = optimizers.make(spec, other, CPU)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    step(model, first, draws[3])
    step(other, second, draws[3])
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_gradients_that_are_not_numbers_spread(optimizer: str) -> None:
    model = train(TrainingSpec(optimizer=optimizer), 3, scale=float("nan"))
    assert all(parameter.isnan().all() for parameter in model.parameters())


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_a_state_begins_as_pytorchs(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, states = TrainingSpec(optimizer=optimizer), []
    for problem in (None, "none here"):
        monkeypatch.setattr(native, "problem", lambda problem=problem: problem)
        model = network()
        made = optimizers.make(spec, model, CPU)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizers.step(made, 1.0)
        states.append(made.state_dict()["state"])
    for own, its in zip(states[0].values(), states[1].values(), strict=True):
        assert own.keys() == its.keys()
        for name, value in its.items():
            assert torch.equal(own[name], value)
            assert own[name].stride() == value.stride()
            assert own[name].dtype == value.dtype
