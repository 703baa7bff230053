"""The encoder by way of `kernels` against the layers it stands for."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from crnn_search.hyperparameters import ModelSpec
from crnn_search.kernels import encoder as layers
from crnn_search.training.model import CRNN


def encoder(spec: ModelSpec) -> nn.Sequential:
    torch.manual_seed(0)
    made = CRNN(spec).to(memory_format=torch.channels_last).encoder
    for module in made:
        if isinstance(module, nn.BatchNorm2d):
            # Of either sign: where a weight is negative, the minimum is pooled.
            for parameter in module.parameters():
                nn.init.normal_(parameter)
    assert isinstance(made, nn.Sequential)
    return made


def pixels(images: int = 12) -> Tensor:
    """Whole numbers from 0 to 255."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (images, 28, 28), dtype=torch.uint8, generator=generator)


def by_torch(modules: nn.Sequential, images: Tensor) -> Tensor:
    """Features; flat maps are ordered as they lie in memory, pixel by pixel."""
    values = images.unsqueeze(1).to(next(modules.parameters()).dtype) / 255
    embeds = isinstance(modules[-2], nn.Linear)
    for module in modules:
        if isinstance(module, nn.Flatten) and not embeds:
            values = values.permute(0, 2, 3, 1)
        values = module(values)
    return values


@st.composite
def specs(draw: st.DrawFn) -> ModelSpec:
    depth = draw(st.integers(1, 2))
    channels = tuple(draw(st.sampled_from([1, 3, 8, 8, 11, 16, 19, 24])) for _ in range(depth))
    return ModelSpec(
        conv_channels=channels,
        kernel_size=(draw(st.integers(1, 9)), draw(st.integers(1, 3)))[:depth],
        pooling=(draw(st.integers(1, 4)), draw(st.integers(1, 3)))[:depth],
        padding=draw(st.sampled_from(["same", "valid"])),
        batch_norm=draw(st.booleans()),
        embedding=draw(st.sampled_from([0, 3])),
    )


@settings(max_examples=100, deadline=None)
@given(specs(), st.booleans())
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_it_is_the_layers_it_stands_for(spec: ModelSpec, floats: bool) -> None:
    fast = encoder(spec)
    slow = copy.deepcopy(fast).double()  # in float32 PyTorch's own choice of maxima is off at times
    inputs = pixels().float() / 255 if floats else pixels()
    scale = 1.0 if floats else 1 / 255
    expected = by_torch(slow, pixels())
    found = layers.encode(fast, spec, inputs, scale, "float32")
    torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-3)

    gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    gradient *= expected > 1e-3  # rounding takes what is near zero to either side of it
    expected.backward(gradient.double())
    found.backward(gradient)
    for (name, one), other in zip(slow.named_parameters(), fast.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        # The largest of nearly equal numbers is another one now and then.
        error = float((other.grad - one.grad).norm())
        assert error <= 2e-2 * float(one.grad.norm()) + 1e-3, name
    for name, kept in slow.named_buffers():
        torch.testing.assert_close(
            fast.get_buffer(name).double(), kept.double(), rtol=1e-4, atol=1e-5
        )

    slow.eval()
    fast.eval()
    with torch.no_grad():
        found = layers.encode(fast, spec, inputs, scale, "float32")
        torch.testing.assert_close(found, by_torch(slow, pixels()).float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("precision", "error"), [("float32", 1e-5), ("int16", 1e-3), ("bfloat16", 2e-2)]
)
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_eight_channels_without_normalising_or_pooling(
    padding: str, precision: str, error: float
) -> None:
    spec = ModelSpec(
        conv_channels=(8, 8), kernel_size=(3,), pooling=(2, 1), padding=padding, batch_norm=False
    )
    fast = encoder(spec)
    slow = copy.deepcopy(fast).double()
    expected = by_torch(slow, pixels())
    found = layers.encode(fast, spec, pixels(), 1 / 255, precision)
    plain = expected.detach()
    assert float((found.detach() - plain).norm()) <= error * float(plain.norm())
    gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    gradient *= plain > 1e-1 * plain.max()  # rounding takes what is near zero to either side
    expected.backward(gradient.double())
    found.backward(gradient.to(found.dtype))
    for one, other in zip(slow.parameters(), fast.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert float((other.grad - one.grad).norm()) <= 5 * error * float(one.grad.norm())


def test_of_equal_values_the_first_has_the_gradient() -> None:
    spec = ModelSpec(
        conv_channels=(2, 3), kernel_size=(3,), pooling=(2,), padding="valid", batch_norm=False
    )
    slow = encoder(spec)
    fast = copy.deepcopy(slow)
    stripes = torch.zeros(3, 28, 28, dtype=torch.uint8)
    stripes[:, :, ::4] = 255  # every window sees each of its values twice, above one another
    by_torch(slow, stripes).sum().backward()
    layers.encode(fast, spec, stripes, 1 / 255, "float32").sum().backward()
    for one, other in zip(slow.parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-4)


def test_evaluation_first_leaves_training_possible() -> None:
    spec = ModelSpec(conv_channels=(2, 4), kernel_size=(7, 3))
    modules = encoder(spec).eval()
    with torch.inference_mode():
        layers.encode(modules, spec, pixels(), 1 / 255, "float32")
    layers.encode(modules.train(), spec, pixels(), 1 / 255, "float32").sum().backward()


@pytest.mark.parametrize("batch_norm", [True, False])
def test_in_bfloat16_it_is_near(batch_norm: bool) -> None:
    spec = ModelSpec(conv_channels=(8, 16, 20), batch_norm=batch_norm)
    modules = encoder(spec)
    expected = by_torch(modules, pixels(64))
    found = layers.encode(modules, spec, pixels(64), 1 / 255, "bfloat16")
    assert found.dtype == torch.bfloat16
    error = (found.float() - expected).square().mean() / expected.square().mean()
    assert error < 5e-4


@pytest.mark.parametrize("batch_norm", [True, False])
def test_in_int16_it_is_nearer_than_in_bfloat16(batch_norm: bool) -> None:
    spec = ModelSpec(conv_channels=(8, 8, 20), embedding=128, batch_norm=batch_norm)
    modules = encoder(spec)
    expected = by_torch(modules, pixels(64))

    def error(precision: str) -> float:
        found = layers.encode(modules, spec, pixels(64), 1 / 255, precision).float()
        return ((found - expected).square().mean() / expected.square().mean()).item()

    assert 1e-10 < error("int16") < 1e-2 * error("bfloat16")


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_what_is_not_a_number_stays_none(layer: int, batch_norm: bool) -> None:
    spec = ModelSpec(conv_channels=(8, 8), batch_norm=batch_norm)
    modules = encoder(spec)
    conv = [module for module in modules if isinstance(module, nn.Conv2d)][layer]
    nn.init.constant_(conv.weight, float("nan"))
    for precision in ("float32", "bfloat16", "int16"):
        assert layers.encode(modules, spec, pixels(), 1 / 255, precision).isnan().all()


@pytest.mark.parametrize(
    ("channels", "side", "kernel", "filters"),
    [
        ((16, 32), 14, 3, True),
        ((32, 64), 7, 3, True),
        ((8, 16), 14, 3, False),  # too few channels
        ((32, 64), 5, 3, False),  # tiles mostly beyond the map
        ((16, 32), 14, 5, False),
    ],
)
def test_filtering_where_it_saves_products(
    channels: tuple[int, int], side: int, kernel: int, filters: bool
) -> None:
    conv = nn.Conv2d(*channels, kernel, padding="same", bias=False)
    maps = torch.randn(2, channels[0], side, side).contiguous(memory_format=torch.channels_last)
    found, mean, variance = layers._convolve(conv, maps, "float32", moments=True)
    assert (type(found.grad_fn).__name__ == "_WinogradBackward") == filters
    expected = conv(maps)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    exact = expected.detach().double()
    torch.testing.assert_close(mean, exact.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(variance, exact.var((0, 2, 3), correction=0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("precision", "error"), [("float32", 2e-5), ("int16", 1e-3)])
def test_threads_share_the_images(precision: str, error: float) -> None:
    spec = ModelSpec(conv_channels=(5, 8, 8, 9), embedding=128)
    modules = encoder(spec)

    def gradients() -> list[Tensor]:
        modules.zero_grad()
        layers.encode(modules, spec, pixels(13), 1 / 255, precision).square().sum().backward()
        return [p.grad for p in modules.parameters() if p.grad is not None]

    alone = gradients()
    torch.set_num_threads(3)
    try:
        together = gradients()
    finally:
        torch.set_num_threads(1)
    for one, other in zip(alone, together, strict=True):
        assert float((other - one).norm()) <= error * float(one.norm())
