from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from torch import Tensor, nn

from crnn_search.data.sequences import pack_order
from crnn_search.hyperparameters import MNIST_CRNN_2016, MNIST_SHAPE, ImageShape, ModelSpec
from crnn_search.training.gru import PackedGRU
from crnn_search.training.model import CRNN

SPECS = [
    MNIST_CRNN_2016.model,
    ModelSpec(conv_channels=(4, 6), gru_sizes=(5,)),
    ModelSpec(conv_channels=(3,), pooling=(4,), embedding=7, gru_sizes=(6, 4, 5), batch_norm=False),
]


def make_model(spec: ModelSpec, shape: ImageShape = MNIST_SHAPE) -> CRNN:
    """A network in evaluation mode whose batch normalisations are not the identity."""
    torch.manual_seed(0)
    model = CRNN(spec, shape).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight)
    return model


def pack(sequences: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Padded sequences `(B, T, ...)` as a packed batch: its rows, batch sizes and order."""
    order, active = pack_order(lengths)
    return sequences[order, : len(active)].transpose(0, 1)[active], active.sum(1), order


def gru_reference(gru: nn.GRU, features: Tensor) -> Tensor:
    """States `(T, H)` of one sequence `(T, D)` by the equations of PyTorch's documentation."""
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


def sum_reference(model: CRNN, images: Tensor) -> Tensor:
    """The predicted sum of one sequence, `(T, C, H, W)`."""
    return decoded(model, model.encoder(images))[0]


def decoded(model: CRNN, features: Tensor) -> Tensor:
    """The predicted sum of one sequence of encoded images, `(T, D)`; of shape `(1,)`."""
    for gru in model.grus:
        assert isinstance(gru, nn.GRU)
        features = gru_reference(gru, features)
    return model.output(features[-1])  # type: ignore[no-any-return]


@pytest.mark.parametrize("spec", SPECS)
def test_packed_batch_gives_the_sum_of_each_sequence(spec: ModelSpec) -> None:
    model = make_model(spec)
    images, lengths = torch.rand(5, 8, 1, 28, 28), torch.tensor([3, 8, 1, 5, 8])
    rows, batch_sizes, order = pack(images, lengths)
    with torch.no_grad():
        sums = model(rows, batch_sizes)
        expected = [sum_reference(model, images[row, : lengths[row]]) for row in order]
    torch.testing.assert_close(sums, torch.stack(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "shape", [ImageShape(3, 28, 28), ImageShape(1, 9, 40), ImageShape(3, 33, 8)]
)
@pytest.mark.parametrize("spec", SPECS[1:])
def test_images_of_any_shape(spec: ModelSpec, shape: ImageShape) -> None:
    model = make_model(spec, shape)
    images = torch.rand(6, *shape)
    with torch.no_grad():
        sums = model(images, torch.tensor([2, 2, 1, 1]))
        first = sum_reference(model, images[[0, 2, 4, 5]])
    assert sums.isfinite().all()
    torch.testing.assert_close(sums[0], first, rtol=1e-5, atol=1e-5)
    assert model.encoder(images).shape == (6, model.feature_size)


def test_uint8_images_are_scaled_to_one() -> None:
    model = make_model(SPECS[1])
    images = torch.randint(256, (6, 1, 28, 28), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(model.encode(images), model.encode(images.float() / 255))


def test_bfloat16_changes_the_encoder_only() -> None:
    model = make_model(SPECS[1])
    images = torch.rand(3, 1, 28, 28)
    with torch.no_grad():
        expected = model.encode(images)
        model.precision = "bfloat16"
        gates = model.encode(images)
        sums = model.decode(expected, torch.tensor([2, 1]))
    assert gates.dtype == sums.dtype == torch.float32
    assert not torch.equal(gates, expected)
    torch.testing.assert_close(gates, expected, rtol=0.05, atol=0.05)
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("batch_sizes", [[1], [4, 4, 4], [5, 3, 3, 1], [2] + [1] * 6])
def test_packed_gru_matches_pytorch(batch_sizes: list[int]) -> None:
    """States and all gradients, also those that come from states before the last ones."""
    torch.manual_seed(0)
    gru, own = nn.GRU(5, 7).double(), PackedGRU(5, 7).double()
    own.load_state_dict(gru.state_dict())
    inputs = torch.randn(sum(batch_sizes), 5, dtype=torch.float64, requires_grad=True)
    own_inputs = inputs.detach().clone().requires_grad_()
    sizes = torch.tensor(batch_sizes)
    packed, hidden = gru(nn.utils.rnn.PackedSequence(inputs, sizes))
    states, last = own.recur(own.project(own_inputs), sizes)
    torch.testing.assert_close(states, packed.data)
    torch.testing.assert_close(last, hidden[0])
    weights = torch.randn_like(states)
    ((packed.data * weights).sum() + hidden.square().sum()).backward()
    ((states * weights).sum() + last.square().sum()).backward()
    torch.testing.assert_close(own_inputs.grad, inputs.grad)
    for name, parameter in gru.named_parameters():
        torch.testing.assert_close(own.get_parameter(name).grad, parameter.grad)


def test_recurrent_weights_start_orthogonal_and_updates_with_a_bias_of_one() -> None:
    torch.manual_seed(0)
    gru = PackedGRU(5, 7)
    torch.manual_seed(0)
    plain = nn.GRU(5, 7)
    gates = gru.get_parameter("weight_hh_l0").detach().chunk(3)
    for gate in gates:
        torch.testing.assert_close(gate @ gate.T, torch.eye(7))
    assert not torch.equal(gates[0], gates[1])
    assert not torch.equal(gates[1], gates[2])
    update = torch.tensor([0.0, 1.0, 0.0]).repeat_interleave(7)
    bias = gru.get_parameter("bias_ih_l0").detach() - plain.get_parameter("bias_ih_l0").detach()
    torch.testing.assert_close(bias, update)
    for name in ("weight_ih_l0", "bias_hh_l0"):  # as PyTorch draws them
        assert torch.equal(gru.get_parameter(name), plain.get_parameter(name))


@pytest.mark.parametrize("used_twice", [False, True])
def test_feature_dropout_masks_what_an_image_gives_to_the_first_gru(used_twice: bool) -> None:
    """An image has one mask, in however many sequences it is."""
    model = make_model(ModelSpec((4, 6), gru_sizes=(5, 3), batch_norm=False, feature_dropout=0.4))
    images, sizes = torch.rand(6, 1, 28, 28), torch.tensor([3, 2, 1])
    rows = torch.tensor([5, 0, 0, 2, 1, 5]) if used_twice else None
    order = torch.arange(6) if rows is None else rows
    with torch.no_grad():
        torch.manual_seed(1)
        mask = nn.functional.dropout(torch.ones(6, model.feature_size), 0.4)
        assert mask.unique().tolist() == pytest.approx([0, 1 / 0.6])
        features = model.encoder(images)
        torch.manual_seed(1)
        found = model.train()(images, sizes, rows)
        without = model.eval()(images, sizes, rows)
    for sums, kept in ((found, features * mask), (without, features)):
        sequences = kept[order[[0, 3, 5]]], kept[order[[1, 4]]], kept[order[[2]]]
        expected = torch.cat([decoded(model, sequence) for sequence in sequences])
        torch.testing.assert_close(sums, expected, rtol=1e-5, atol=1e-5)


def test_last_states_are_those_of_each_sequences_last_step() -> None:
    torch.manual_seed(0)
    gru = PackedGRU(2, 3)
    sizes = [4, 2, 1]
    starts = [0, *accumulate(sizes)]
    with torch.no_grad():
        states, last = gru.recur(torch.randn(sum(sizes), 9), torch.tensor(sizes))
    rows = [starts[2], starts[1] + 1, starts[0] + 2, starts[0] + 3]
    assert torch.equal(last, states[rows])


def test_2016_network_matches_the_demonstration() -> None:
    model = CRNN(MNIST_CRNN_2016.model)
    kinds = [type(layer).__name__ for layer in model.encoder.children()]
    assert kinds == ["Conv2d", "MaxPool2d", "ReLU", "Conv2d", "ReLU", "Flatten"]
    assert [tuple(p.shape) for p in model.encoder.parameters()] == [
        (8, 1, 4, 4), (8,), (8, 8, 3, 3), (8,),
    ]  # fmt: skip
    assert model.feature_size == 800
    assert [gru.hidden_size for gru in model.grus] == [100, 50]
    assert model.dropout.p == 0.2
    assert sum(p.numel() for p in model.parameters()) == 294_171
