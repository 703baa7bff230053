"""Networks and sequences that the tests of model files share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from crnn_search.data.digits import draw_table
from crnn_search.data.mnist_sums import MnistSource
from crnn_search.data.own import OwnSequences
from crnn_search.data.sequences import SequenceTable
from crnn_search.data.task_info import TaskInfo
from crnn_search.hyperparameters import (
    MNIST_CRNN_2016,
    ImageShape,
    ModelSpec,
    TrainingSpec,
    TrialConfig,
)
from crnn_search.models.export import Examples, TrainedModel, export
from crnn_search.models.folder import ModelFolder
from crnn_search.models.info import ModelInfo
from crnn_search.models.predictor import Floats, Lengths, Predictor
from crnn_search.models.preprocessing import Preprocessing
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
SUMS = MnistSource(max_digits=8).info
COLOUR = TaskInfo(
    "clips", "c0ffee/drop", "growth", ImageShape(3, 16, 24), 6, unit="µm", center=5e6, scale=2e5
)
GREY = TaskInfo("gauges", "bad/first", "pressure", ImageShape(1, 8, 8), 6, center=-3e-6, scale=1e-6)


def images_of(shape: ImageShape) -> Tensor:
    """Random images, uint8 `(50, C, H, W)`."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (50, *shape), dtype=torch.uint8, generator=generator)


IMAGES = images_of(SUMS.shape)
TABLE: SequenceTable = draw_table(torch.arange(50), torch.arange(50) % 10, 120, 8, seed=2)


def network(spec: ModelSpec, task: TaskInfo = SUMS) -> CRNN:
    """A network whose predictions spread and whose batch statistics are not 0 and 1."""
    torch.manual_seed(5)
    model = CRNN(spec, task.shape)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for value in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                assert value is not None
                nn.init.uniform_(value, 0.2, 1.5)
    nn.init.uniform_(model.output.weight, -10, 10)
    model.scale_output(task.center, task.scale)
    return model.to(memory_format=torch.channels_last).eval()


def write(spec: ModelSpec, folder: Path, *formats: str, task: TaskInfo = SUMS) -> dict[str, float]:
    """Export the network of a spec; returns what `export` returns."""
    model = TrainedModel(network(spec, task), info_of(spec, task))
    return export(model, ModelFolder(folder), formats, examples_of(task))


def info_of(spec: ModelSpec, task: TaskInfo = SUMS) -> ModelInfo:
    """What is known of the network of a spec."""
    config = TrialConfig(spec, TrainingSpec())
    return ModelInfo(config, task, Preprocessing.of(task), training={"seed": 3})


def examples_of(task: TaskInfo) -> Examples:
    """Random images in the sequences of `TABLE`."""
    return Examples(images_of(task.shape), TABLE, shipped=3)


def predict(predictor: Predictor, images: Tensor, lengths: Tensor) -> Tensor:
    """The predictions for padded sequences, `(B,)`."""
    return torch.from_numpy(predictor(images.numpy(), lengths.numpy()))


def sequences(
    count: int, steps: int, seed: int = 0, shape: ImageShape = SUMS.shape
) -> tuple[Tensor, Tensor]:
    """Random padded sequences with noise as padding, and their lengths; one at least is full."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, steps, *shape, generator=generator)
    lengths = torch.randint(1, steps + 1, (count,), generator=generator)
    lengths[0] = steps
    return images, lengths


def one_by_one(model: CRNN, images: Tensor, lengths: Tensor) -> Tensor:
    """Predictions for padded sequences, `(B,)`, each predicted alone, by PyTorch's own `nn.GRU`."""
    predictions = []
    with torch.no_grad():
        for sequence, length in zip(images, lengths.tolist(), strict=True):
            states = model.encoder(sequence[:length])
            for gru in model.grus:
                assert isinstance(gru, nn.GRU)
                states, _ = nn.GRU.forward(gru, states)
            predictions.append(model.output(states[-1]))
    return torch.cat(predictions)


def recording(predictor: Predictor, shapes: list[tuple[int, ...]]) -> Predictor:
    """The same predictor, which lists the shapes of its images."""

    def function(images: Floats, lengths: Lengths) -> Floats:
        shapes.append(tuple(images.shape))
        return predictor.function(images, lengths)

    return replace(predictor, function=function)


def own_task(info: TaskInfo, sequences: int = 300, longest: int = 6) -> OwnSequences:
    """Sequences whose target is `center` plus `scale` for each bright image more than the mean.

    A sixth of them is for validation, and a sixth for testing. `info` is given the center and scale
    of the training targets.
    """
    generator = torch.Generator().manual_seed(7)
    bright = torch.arange(60) % 2
    images = torch.randint(100, (60, *info.shape), dtype=torch.uint8, generator=generator)
    images += (150 * bright)[:, None, None, None].to(torch.uint8)
    table = draw_table(torch.arange(60), bright, sequences, longest, seed=8)
    targets = info.center + info.scale * (table.targets.double() - table.targets.mean())
    table = replace(table, targets=targets, groups=torch.arange(sequences))
    parts = torch.arange(sequences).tensor_split([sequences * 2 // 3, sequences * 5 // 6])
    training, validation, test = (table.take(rows) for rows in parts)
    info = replace(info, center=float(training.targets.mean()), scale=float(training.targets.std()))
    return OwnSequences(info, images, training, validation, test, "drop", [])
