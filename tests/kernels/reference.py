"""A model in float64, by PyTorch's own layers: what the kernels are compared with."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from crnn_search.hyperparameters import MNIST_SHAPE, ImageShape, ModelSpec
from crnn_search.training.model import CRNN

BATCH_SIZES = torch.tensor([5, 4, 4, 2])
"""Of 15 images."""


@dataclass(frozen=True)
class Pass:
    """Gates `(N, 3H)` and sums `(B,)` of a forward pass, and the gradients of its parameters."""

    gates: Tensor
    sums: Tensor
    gradients: dict[str, Tensor]


def make_model(
    spec: ModelSpec, precision: str = "float32", shape: ImageShape = MNIST_SHAPE
) -> CRNN:
    torch.manual_seed(0)
    model = CRNN(spec, shape, "bfloat16" if precision == "bfloat16" else "float32")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # a negative weight makes the minimum the maximum
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    model.to(memory_format=torch.channels_last)
    return model


def make_images(count: int = 15, shape: ImageShape = MNIST_SHAPE, seed: int = 1) -> Tensor:
    """uint8 `(N, C, H, W)`, partly blank as digits are."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    images[: count // 2, ..., : shape.columns * 2 // 5] = 0
    images[:, :, shape.rows * 5 // 7 :] = 0
    return images


def run(model: CRNN, images: Tensor) -> Pass:
    """The model's own forward and backward pass."""
    model.zero_grad()
    gates = model.encode(images)
    return _backward(model, gates, model.decode(gates, BATCH_SIZES))


def run_reference(model: nn.Module, images: Tensor) -> Pass:
    """The same by PyTorch's layers. model: a float64 copy, see `double`."""
    model.zero_grad()
    values = images.double() / (255 if images.dtype == torch.uint8 else 1)
    assert isinstance(model, CRNN)
    for layer in model.encoder.children():
        values = layer(values)
    gru = model.grus[0]
    gates = values @ gru.get_parameter("weight_ih_l0").t() + gru.get_parameter("bias_ih_l0")
    for gru in model.grus:
        assert isinstance(gru, nn.GRU)
        packed, last = nn.GRU.forward(gru, PackedSequence(values, BATCH_SIZES))
        values = packed.data
    return _backward(model, gates, model.output(model.dropout(last[-1])).squeeze(1))


def double(model: CRNN) -> CRNN:
    return copy.deepcopy(model).double()


def _backward(model: nn.Module, gates: Tensor, sums: Tensor) -> Pass:
    # Gates have gradients of their own, as large ones saturate the recurrence.
    losses = [
        (values.flatten() * torch.linspace(-1, 1, values.numel(), dtype=values.dtype)).sum()
        for values in (gates, sums)
    ]
    torch.stack(losses).sum().backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return Pass(gates.detach(), sums.detach(), gradients)


def distance(found: Tensor, expected: Tensor, least: float = 1e-3) -> float:
    """Norm of the difference, relative to the expected norm or `least`."""
    difference = (found.double() - expected.double()).norm()
    return float(difference / expected.double().norm().clamp_min(least))


def largest_distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Of all parameters; batch norm makes some gradients zero, which rounding does not."""
    assert found.keys() == expected.keys()
    least = max(1e-3, 0.01 * max(float(gradient.norm()) for gradient in expected.values()))
    return max(distance(found[name], expected[name], least) for name in expected)
