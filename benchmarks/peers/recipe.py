"""A plain PyTorch training as tutorials write it; Ray's recipe, Optuna alone and the GPU share it.

A `Dataset` composes padded 8-image float sequences one by one, the padding is encoded too, `nn.GRU`
runs over all steps, float32, `.item()` every step, validation sequence by sequence.

Shapes: `B` sequences of a batch, `T` time steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.work import Work, tables
from crnn_search.data.digits import Digits
from crnn_search.data.sequences import SequenceTable
from crnn_search.hyperparameters import MNIST_SHAPE, ModelSpec, TrainingSpec, TrialConfig
from crnn_search.training import engine, optimizers

CPU = torch.device("cpu")

Loader = DataLoader[tuple[Tensor, int, float]]


class Sequences(Dataset[tuple[Tensor, int, float]]):
    """Sequences as tensors: images `(T, 1, 28, 28)` in [0, 1], zeros at the end; length; sum."""

    def __init__(self, digits: Digits, table: SequenceTable) -> None:
        self.digits, self.table = digits, table

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> tuple[Tensor, int, float]:
        length = int(self.table.lengths[row])
        images = torch.zeros(self.table.indices.shape[1], 1, 28, 28)
        indices = self.table.indices[row, :length].long()
        images[:length, 0] = self.digits.images[indices].float() / 255
        return images, length, float(self.table.targets[row])


class PlainCRNN(nn.Module):
    """The network written plainly. Its weights have the names that the package's `CRNN` gives."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 1
        for width, kernel, pool in spec.layers():
            bias = not spec.batch_norm
            layers.append(nn.Conv2d(inputs, width, kernel, padding=spec.padding, bias=bias))
            layers += [nn.BatchNorm2d(width)] if spec.batch_norm else []
            layers += [nn.ReLU(), nn.MaxPool2d(pool)] if pool > 1 else [nn.ReLU()]
            inputs = width
        self.encoder = nn.Sequential(*layers, nn.Flatten())
        rows, columns = spec.feature_map_size(MNIST_SHAPE)
        widths = (inputs * rows * columns, *spec.gru_sizes)
        self.grus = nn.ModuleList(
            nn.GRU(a, b, batch_first=True) for a, b in zip(widths[:-1], spec.gru_sizes, strict=True)
        )
        self.dropout = nn.Dropout(spec.dropout)
        self.output = nn.Linear(widths[-1], 1)

    def forward(self, images: Tensor, lengths: Tensor) -> Tensor:
        """Predict sums `(B,)` of padded images `(B, T, 1, 28, 28)` from each last real step."""
        features = self.encoder(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        for gru in self.grus:
            features, _ = gru(features)
        last = features[torch.arange(len(lengths), device=features.device), lengths - 1]
        sums: Tensor = self.output(self.dropout(last)).squeeze(1)
        return sums


@dataclass(frozen=True)
class Training:
    """One plain training of `epochs` epochs. device: where the model is and batches are moved."""

    spec: TrainingSpec
    epochs: int
    model: PlainCRNN
    optimizer: torch.optim.Optimizer
    device: torch.device

    def train_epoch(self, loader: Loader, epoch: int) -> None:
        """Train on all sequences of a loader. epoch: 0, 1, ...; it decides the learning rate."""
        self.model.train()
        for step, (images, lengths, sums) in enumerate(loader):
            progress = (epoch + step / len(loader)) / self.epochs
            for group in self.optimizer.param_groups:
                group["lr"] = optimizers.learning_rate_at(self.spec, progress)
            predicted = self.model(images.to(self.device), lengths.to(self.device))
            loss = F.mse_loss(predicted, sums.float().to(self.device))
            self.optimizer.zero_grad()
            loss.backward()
            if self.spec.gradient_clip:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.spec.gradient_clip)
            self.optimizer.step()
            loss.item()

    def validate(self, loader: Loader) -> float:
        """RMSE, sequence by sequence."""
        self.model.eval()
        squared, count = 0.0, 0
        with torch.no_grad():
            for images, lengths, sums in loader:
                predicted = self.model(images.to(self.device), lengths.to(self.device))
                squared += (predicted - sums.to(self.device)).square().sum().item()
                count += len(sums)
        return math.sqrt(squared / count)


def start(config: TrialConfig, seed: int, epochs: int, device: torch.device) -> Training:
    """A plain training with the weights that the engine would start with."""
    model = PlainCRNN(config.model)
    weights = engine.start(config, seed=seed, epochs=1, device=CPU).model.state_dict()
    model.load_state_dict(weights)
    model.to(device)
    return Training(config.training, epochs, model, _optimizer(config.training, model), device)


def train(
    work: Work, seed: int, num_workers: int
) -> Iterator[tuple[float, nn.Module, torch.optim.Optimizer]]:
    """Train one trial; after each epoch its validation RMSE, the network and the optimizer."""
    torch.set_num_threads(1)
    config, digits = work.spec(), work.digits()
    table_of_epoch, validation = tables(digits, work, seed)
    training = start(config, seed, work.epochs, CPU)

    def loader(table: SequenceTable) -> Loader:
        size = config.training.batch_size
        return DataLoader(Sequences(digits, table), size, num_workers=num_workers)

    checking = loader(validation)
    for epoch in range(work.epochs):
        training.train_epoch(loader(table_of_epoch(epoch)), epoch)
        yield training.validate(checking), training.model, training.optimizer


def _optimizer(spec: TrainingSpec, model: nn.Module) -> torch.optim.Optimizer:
    """The configuration's optimizer as PyTorch has it."""
    if spec.optimizer == "adamw":
        return torch.optim.AdamW(
            model.parameters(), spec.learning_rate, weight_decay=spec.weight_decay
        )
    return torch.optim.RMSprop(model.parameters(), spec.learning_rate, alpha=0.9, eps=1e-7)
