from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crnn_search.hyperparameters import TrainingSpec
from crnn_search.training import optimizers

CPU = torch.device("cpu")
WITHOUT_COMPILER = """
import sys, torch
from crnn_search.data.digits import Digits
from crnn_search.data.mnist_sums import MnistSums
from crnn_search.hyperparameters import ModelSpec, TrainingSpec, TrialConfig
from crnn_search.training import engine
digits = Digits(torch.zeros(60_000, 28, 28, dtype=torch.uint8), torch.zeros(60_000).byte())
data = engine.TrainingData(MnistSums(digits, 8), None, 32)
for name in ("adamw", "rmsprop"):
    config = TrialConfig(ModelSpec((2,), gru_sizes=(2,)), TrainingSpec(optimizer=name))
    state = engine.start(config, seed=1, epochs=1, device=torch.device("cpu"))
    engine.train_epoch(state, data)
    state.optimizer.load_state_dict(state.optimizer.state_dict())
print("torch._dynamo" in sys.modules)
"""

BOTH = pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(5 * 4, 10)).to(
        memory_format=torch.channels_last
    )


def set_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = torch.empty_like(parameter).copy_(gradient)


def reference_steps(spec: TrainingSpec, values: list[Tensor], steps: int) -> list[Tensor]:
    """Steps with clipping and decoupled weight decay, one formula after another, in float64."""
    weights = [value.double() for value in values]
    mean = [torch.zeros_like(w) for w in weights]
    square = [torch.zeros_like(w) for w in weights]
    for step in range(1, steps + 1):
        generator = torch.Generator().manual_seed(step)
        gradients = [torch.randn(w.shape, generator=generator).double() for w in weights]
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        if spec.gradient_clip:
            gradients = [g * min(1.0, spec.gradient_clip / (norm + 1e-6)) for g in gradients]
        lr = spec.learning_rate / step
        for k, g in enumerate(gradients):
            weights[k] = weights[k] * (1 - lr * spec.weight_decay)
            if spec.optimizer == "adamw":
                mean[k] = 0.9 * mean[k] + 0.1 * g
                square[k] = 0.999 * square[k] + 0.001 * g**2
                update = mean[k] / (1 - 0.9**step)
                update = update / ((square[k] / (1 - 0.999**step)).sqrt() + 1e-8)
            else:
                square[k] = 0.9 * square[k] + 0.1 * g**2
                update = g / (square[k].sqrt() + 1e-7)
            weights[k] = weights[k] - lr * update
    return weights


@BOTH
@pytest.mark.parametrize(
    "values", [{}, {"weight_decay": 0.5}, {"gradient_clip": 0.0}, {"gradient_clip": 1e-3}]
)
def test_steps_match_the_formulas(optimizer: str, values: dict[str, Any]) -> None:
    spec = TrainingSpec(optimizer=optimizer, learning_rate=0.1, **values)
    model = make_model()
    expected = reference_steps(spec, [p.detach().clone() for p in model.parameters()], 6)
    stepper = optimizers.make(spec, model, CPU)
    for step in range(1, 7):
        set_gradients(model, step)
        # `set_gradients` draws parameter after parameter from one generator, as the reference.
        optimizers.set_learning_rate(stepper, spec.learning_rate / step)
        optimizers.step(stepper, spec.gradient_clip)
    for parameter, value in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach().double(), value, rtol=1e-4, atol=1e-5)


@BOTH
def test_weight_decay_bypasses_the_moments(optimizer: str) -> None:
    """With zero gradients the moments stay zero, and weights shrink by the decay alone."""
    model = make_model()
    before = [p.detach().clone() for p in model.parameters()]
    spec = TrainingSpec(optimizer=optimizer, learning_rate=0.1, weight_decay=0.5)
    stepper = optimizers.make(spec, model, CPU)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizers.step(stepper, spec.gradient_clip)
    for parameter, value in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.detach(), value * (1 - 0.1 * 0.5))
        for name, moment in stepper.state[parameter].items():
            if name != "step":
                assert not moment.any()


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_rmsprop_keeps_pytorchs_state(decay: float) -> None:
    spec = TrainingSpec(optimizer="rmsprop", weight_decay=decay)
    model, plain = make_model(), make_model()
    stepper, expected = (
        optimizers.make(spec, model, CPU),
        torch.optim.RMSprop(plain.parameters(), spec.learning_rate, alpha=0.9, eps=1e-7),
    )
    for network, optimizer in ((model, stepper), (plain, expected)):
        set_gradients(network, 1)
        optimizer.step()
    own, other = stepper.state_dict(), expected.state_dict()
    assert own["param_groups"] == other["param_groups"]
    for values, theirs in zip(own["state"].values(), other["state"].values(), strict=True):
        assert values.keys() == theirs.keys()
        assert all(torch.equal(values[name], theirs[name]) for name in theirs)
    if not decay:
        for one, two in zip(model.parameters(), plain.parameters(), strict=True):
            assert torch.equal(one, two)


@pytest.mark.parametrize("on_tensor", [False, True])
def test_rmsprop_decays_by_the_current_learning_rate(on_tensor: bool) -> None:
    weight = nn.Parameter(torch.ones(3))
    lr: Any = torch.tensor(0.1) if on_tensor else 0.1
    optimizer = optimizers.RMSpropW([weight], lr, decay=0.5)
    weight.grad = torch.zeros(3)
    optimizers.set_learning_rate(optimizer, 0.2)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((3,), 0.9))


@BOTH
def test_saved_state_continues(optimizer: str) -> None:
    spec = TrainingSpec(optimizer=optimizer, weight_decay=0.1)
    model = make_model()
    first = optimizers.make(spec, model, CPU)
    for step in range(3):
        set_gradients(model, step)
        optimizers.step(first, spec.gradient_clip)
    other = copy.deepcopy(model)
    second = optimizers.make(spec, other, CPU)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for network, stepper in ((model, first), (other, second)):
        set_gradients(network, 3)
        optimizers.step(stepper, spec.gradient_clip)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


@BOTH
def test_nan_gradients_propagate(optimizer: str) -> None:
    spec = TrainingSpec(optimizer=optimizer)
    model = make_model()
    stepper = optimizers.make(spec, model, CPU)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    optimizers.step(stepper, spec.gradient_clip)
    assert all(parameter.isnan().all() for parameter in model.parameters())


def test_training_does_not_import_pytorchs_compiler() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER], capture_output=True, text=True, timeout=100
    )
    assert done.stdout == "False\n", done.stderr


def test_tensor_learning_rate_is_set_in_place() -> None:
    rate = torch.tensor(0.1)
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], rate)
    optimizers.set_learning_rate(optimizer, 0.5)
    assert optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == 0.5


def test_one_cycle_rises_and_falls() -> None:
    spec = TrainingSpec(learning_rate=0.1)
    rates = [optimizers.learning_rate_at(spec, k / 100) for k in range(101)]
    assert rates[0] == pytest.approx(0.1 / 25)
    assert max(rates) == rates[25] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(1e-4)
    assert rates[:26] == sorted(rates[:26])
    assert rates[25:] == sorted(rates[25:], reverse=True)


def test_constant_schedule_is_constant() -> None:
    spec = TrainingSpec(learning_rate=0.1, schedule="constant")
    assert {optimizers.learning_rate_at(spec, k / 10) for k in range(11)} == {0.1}
