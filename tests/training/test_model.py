from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from crnn_search.hyperparameters import MNIST_CRNN_2016, ModelSpec
from crnn_search.training.model import CRNN

SPECS = [
    MNIST_CRNN_2016.model,
    ModelSpec(conv_channels=(4, 6), gru_sizes=(5,)),
    ModelSpec(conv_channels=(3,), pooling=(4,), embedding=7, gru_sizes=(6, 4, 5), batch_norm=False),
]


def network(spec: ModelSpec) -> CRNN:
    """A network in evaluation mode whose batch norms are not the identity."""
    torch.manual_seed(0)
    model = CRNN(spec).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight)
    return model


def gru_by_hand(gru: nn.GRU, features: Tensor) -> Tensor:
    """Outputs `(T, H)` of one sequence `(T, D)` by the equations of PyTorch's manual."""
    size = gru.hidden_size
    w_x, w_h, b_x, b_h = (
        getattr(gru, f"{n}_l0") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    state, states = torch.zeros(size), []
    for x in features:
        from_x = w_x @ x + b_x
        from_h = w_h @ state + b_h
        reset = torch.sigmoid(from_x[:size] + from_h[:size])
        update = torch.sigmoid(from_x[size : 2 * size] + from_h[size : 2 * size])
        new = torch.tanh(from_x[2 * size :] + reset * from_h[2 * size :])
        state = (1 - update) * new + update * state
        states.append(state)
    return torch.stack(states)


def sum_by_hand(model: CRNN, images: Tensor) -> Tensor:
    """The predicted sum of one sequence without padding, `(T, 1, 28, 28)`."""
    features = model.encode(images)
    for gru in model.grus:
        assert isinstance(gru, nn.GRU)
        features = gru_by_hand(gru, features)
    return model.output(features[-1])[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("spec", SPECS)
def test_gru_stack_is_the_hand_written_cell(spec: ModelSpec) -> None:
    model = network(spec)
    images, lengths = torch.rand(4, 8, 1, 28, 28), torch.tensor([3, 8, 1, 5])
    with torch.no_grad():
        sums = model(images, lengths)
        for row, length in enumerate(lengths):
            by_hand = sum_by_hand(model, images[row, :length])
            torch.testing.assert_close(sums[row], by_hand, rtol=1e-5, atol=1e-5)


@given(
    lengths=st.lists(st.integers(1, 8), min_size=1, max_size=6),
    extra=st.integers(0, 4),
    padding=st.sampled_from([0.0, 1.0, -1e6, float("nan"), float("inf")]),
    spec=st.sampled_from(SPECS),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_padding_never_changes_a_prediction(
    lengths: list[int], extra: int, padding: float, spec: ModelSpec
) -> None:
    model = network(spec)
    images = torch.rand(len(lengths), max(lengths), 1, 28, 28)
    padded = torch.full((len(lengths), max(lengths) + extra, 1, 28, 28), padding)
    for row, length in enumerate(lengths):
        padded[row, :length] = images[row, :length]
    counts = torch.tensor(lengths)
    with torch.no_grad():
        assert torch.equal(model(images, counts), model(padded, counts))


def test_order_of_a_batch_is_kept() -> None:
    model = network(SPECS[1])
    images, lengths = torch.rand(5, 4, 1, 28, 28), torch.tensor([1, 4, 2, 4, 3])
    swap = torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        torch.testing.assert_close(model(images, lengths)[swap], model(images[swap], lengths[swap]))


def test_2016_network_is_the_demonstrations() -> None:
    model = CRNN(MNIST_CRNN_2016.model)
    kinds = [type(layer).__name__ for layer in model.encoder]
    assert kinds == ["Conv2d", "MaxPool2d", "ReLU", "Conv2d", "ReLU", "Flatten"]
    assert [tuple(p.shape) for p in model.encoder.parameters()] == [
        (8, 1, 4, 4), (8,), (8, 8, 3, 3), (8,),
    ]  # fmt: skip
    assert model.feature_size == 800
    assert [gru.hidden_size for gru in model.grus] == [100, 50]
    assert model.dropout.p == 0.2
    assert sum(p.numel() for p in model.parameters()) == 294_171
