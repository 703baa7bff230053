"""The matrix products of `stem` against the layers they stand for."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from crnn_search import stem
from crnn_search.config import ModelSpec
from crnn_search.model import CRNN


def encoder(spec: ModelSpec) -> nn.Sequential:
    torch.manual_seed(0)
    layers = CRNN(spec).encoder[: stem.layers(spec)]
    if spec.batch_norm:
        # Of either sign: where a weight is negative, the minimum is pooled.
        for parameter in layers[1].parameters():
            nn.init.normal_(parameter)
    return layers


def pixels(images: int = 12) -> Tensor:
    return torch.rand(images, 28, 28, generator=torch.Generator().manual_seed(1))


@st.composite
def specs(draw: st.DrawFn) -> ModelSpec:
    return ModelSpec(
        conv_channels=(draw(st.integers(1, 5)),),
        kernel_size=(draw(st.integers(1, 9)),),
        pooling=(draw(st.integers(1, 4)),),
        padding=draw(st.sampled_from(["same", "valid"])),
        batch_norm=draw(st.booleans()),
    )


@settings(max_examples=60, deadline=None)
@given(specs())
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_it_is_the_layers_it_stands_for(spec: ModelSpec) -> None:
    shape = stem.geometry(spec)
    if shape is None:
        _, kernel, pool = next(iter(spec.layers()))
        size = 28 if spec.padding == "same" else 29 - kernel
        assert pool == 1 or (spec.batch_norm and size % pool)
        return
    slow = encoder(spec)
    fast = copy.deepcopy(slow)
    expected = slow(pixels().unsqueeze(1))
    found = stem.encode(fast, shape, pixels() * 255, 1 / 255)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert found.is_contiguous(memory_format=torch.channels_last)

    gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    gradient *= expected > 1e-3  # rounding takes what is near zero to either side of it
    expected.backward(gradient)
    found.backward(gradient)
    for one, other in zip(slow.parameters(), fast.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        scale = float(one.grad.abs().max())
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-2, atol=1e-2 * scale)
    for name, kept in slow.named_buffers():
        torch.testing.assert_close(fast.get_buffer(name), kept, rtol=1e-4, atol=1e-5)

    slow.eval()
    fast.eval()
    with torch.no_grad():
        found = stem.encode(fast, shape, pixels() * 255, 1 / 255)
        torch.testing.assert_close(found, slow(pixels().unsqueeze(1)), rtol=1e-3, atol=1e-4)


def test_of_equal_values_the_first_has_the_gradient() -> None:
    spec = ModelSpec(conv_channels=(2,), kernel_size=(3,), pooling=(2,), batch_norm=False)
    shape = stem.geometry(spec)
    assert shape is not None
    slow = encoder(spec)
    fast = copy.deepcopy(slow)
    stripes = torch.zeros(3, 28, 28)
    stripes[:, :, ::2] = 1.0  # every window sees each of its values twice, above one another
    slow(stripes.unsqueeze(1)).sum().backward()
    stem.encode(fast, shape, stripes, 1.0).sum().backward()
    for one, other in zip(slow.parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad)


def test_evaluation_first_leaves_training_possible() -> None:
    spec = ModelSpec(conv_channels=(2,), kernel_size=(7,), pooling=(2,), padding="valid")
    shape = stem.geometry(spec)
    assert shape is not None
    layers = encoder(spec).eval()
    with torch.inference_mode():
        stem.encode(layers, shape, pixels(), 1.0)
    stem.encode(layers.train(), shape, pixels(), 1.0).sum().backward()


def test_in_bfloat16_it_is_near() -> None:
    spec = ModelSpec(conv_channels=(8,), kernel_size=(3,), pooling=(2,))
    shape = stem.geometry(spec)
    assert shape is not None
    layers = encoder(spec)
    whole = (pixels(64) * 255).round()
    expected = layers(whole.unsqueeze(1) / 255)
    found = stem.encode(layers, shape, whole.to(torch.bfloat16), 1 / 255)
    assert found.dtype == torch.bfloat16
    error = (found.float() - expected).square().mean() / expected.square().mean()
    assert error < 1e-4
