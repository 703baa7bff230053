"""Networks and sequences that the tests of model files share."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from crnn_search.data.sequences import SequenceTable, draw_table
from crnn_search.hyperparameters import (
    MNIST_CRNN_2016,
    MNIST_SHAPE,
    ImageShape,
    ModelSpec,
    TrainingSpec,
    TrialConfig,
)
from crnn_search.models.export import TrainedModel, export
from crnn_search.models.folder import ModelFolder
from crnn_search.training.model import CRNN

SPECS = {
    "embedding": ModelSpec(conv_channels=(4, 6), embedding=20, gru_sizes=(16, 8)),
    "2016": MNIST_CRNN_2016.model,
    "even_kernels": ModelSpec(
        conv_channels=(4, 6), kernel_size=(4, 2), batch_norm=False, gru_sizes=(12,)
    ),
    "pooling_3": ModelSpec(
        conv_channels=(4, 6), kernel_size=(5, 2), pooling=(3, 2), padding="valid", gru_sizes=(12,)
    ),
}
INFO = {"max_digits": 8, "seed": 3}


def images_of(shape: ImageShape) -> Tensor:
    """Random images, uint8 `(50, C, H, W)`."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (50, *shape), dtype=torch.uint8, generator=generator)


IMAGES = images_of(MNIST_SHAPE)
TABLE: SequenceTable = draw_table(torch.arange(50), torch.arange(50) % 10, 120, 8, seed=2)


def network(spec: ModelSpec, shape: ImageShape = MNIST_SHAPE) -> CRNN:
    """A network whose sums spread over some units and whose batch statistics are not 0 and 1."""
    torch.manual_seed(5)
    model = CRNN(spec, shape)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for value in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                assert value is not None
                nn.init.uniform_(value, 0.2, 1.5)
    nn.init.uniform_(model.output.weight, -10, 10)
    return model.to(memory_format=torch.channels_last).eval()


def write(
    spec: ModelSpec, folder: Path, *formats: str, shape: ImageShape = MNIST_SHAPE
) -> dict[str, float]:
    """Export the network of a spec; returns what `export` returns."""
    model = TrainedModel(network(spec, shape), TrialConfig(spec, TrainingSpec()), INFO)
    return export(model, ModelFolder(folder), formats, images_of(shape), TABLE)


def sequences(
    count: int, steps: int, seed: int = 0, shape: ImageShape = MNIST_SHAPE
) -> tuple[Tensor, Tensor]:
    """Random padded sequences with noise as padding, and their lengths; one at least is full."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, steps, *shape, generator=generator)
    lengths = torch.randint(1, steps + 1, (count,), generator=generator)
    lengths[0] = steps
    return images, lengths


def sums_one_by_one(model: CRNN, images: Tensor, lengths: Tensor) -> Tensor:
    """The sums of padded sequences, `(B,)`, each predicted alone, by PyTorch's own `nn.GRU`."""
    sums = []
    with torch.no_grad():
        for sequence, length in zip(images, lengths.tolist(), strict=True):
            states = model.encoder(sequence[:length])
            for gru in model.grus:
                assert isinstance(gru, nn.GRU)
                states, _ = nn.GRU.forward(gru, states)
            sums.append(model.output(states[-1]))
    return torch.cat(sums)
