"""A plain PyTorch training as tutorials write it; Ray's recipe and Optuna alone share it.

A `Dataset` composes padded 8-image float sequences one by one, blanks are encoded too, `nn.GRU`
runs over all steps, float32, `.item()` every step, validation sequence by sequence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.work import Work, tables
from crnn_search.data.sequences import Digits, SequenceTable
from crnn_search.hyperparameters import ModelSpec, TrainingSpec, TrialConfig
from crnn_search.training import engine, optimizers

CPU = torch.device("cpu")


class Sequences(Dataset[tuple[Tensor, int, float]]):
    """Sequences as tensors: images `(T, 1, 28, 28)` in [0, 1], blank at the end; length; sum."""

    def __init__(self, digits: Digits, table: SequenceTable) -> None:
        self.digits, self.table = digits, table

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> tuple[Tensor, int, float]:
        length = int(self.table.lengths[row])
        images = torch.zeros(self.table.indices.shape[1], 1, 28, 28)
        indices = self.table.indices[row, :length].long()
        images[:length, 0] = self.digits.images[indices].float() / 255
        return images, length, float(self.table.sums[row])


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
        widths = (inputs * spec.feature_map_size() ** 2, *spec.gru_sizes)
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
        last = features[torch.arange(len(lengths)), lengths - 1]
        sums: Tensor = self.output(self.dropout(last)).squeeze(1)
        return sums


def network(config: TrialConfig, seed: int) -> PlainCRNN:
    """The plain network with the weights that the engine would start with."""
    model = PlainCRNN(config.model)
    started = engine.start(config, seed=seed, epochs=1, device=CPU)
    model.load_state_dict(started.model.state_dict())
    return model


def optimizer(spec: TrainingSpec, model: nn.Module) -> torch.optim.Optimizer:
    """The configuration's optimizer as PyTorch has it."""
    if spec.optimizer == "adamw":
        return torch.optim.AdamW(
            model.parameters(), spec.learning_rate, weight_decay=spec.weight_decay
        )
    return torch.optim.RMSprop(model.parameters(), spec.learning_rate, alpha=0.9, eps=1e-7)


def train(
    work: Work, seed: int, num_workers: int
) -> Iterator[tuple[float, nn.Module, torch.optim.Optimizer]]:
    """Train one trial; after each epoch its validation RMSE, the network and the optimizer."""
    torch.set_num_threads(1)
    config, digits = work.spec(), work.digits()
    spec = config.training
    training, validation = tables(digits, work, seed)
    model = network(config, seed)
    updates = optimizer(spec, model)
    checking = DataLoader(Sequences(digits, validation), spec.batch_size, num_workers=num_workers)
    for epoch in range(work.epochs):
        loader = DataLoader(
            Sequences(digits, training(epoch)), spec.batch_size, num_workers=num_workers
        )
        model.train()
        for step, (images, lengths, sums) in enumerate(loader):
            progress = (epoch + step / len(loader)) / work.epochs
            for group in updates.param_groups:
                group["lr"] = optimizers.learning_rate_at(spec, progress)
            loss = F.mse_loss(model(images, lengths), sums.float())
            updates.zero_grad()
            loss.backward()
            if spec.gradient_clip:
                nn.utils.clip_grad_norm_(model.parameters(), spec.gradient_clip)
            updates.step()
            loss.item()
        yield evaluate(model, checking), model, updates


def evaluate(model: nn.Module, loader: DataLoader[tuple[Tensor, int, float]]) -> float:
    """Validation RMSE, sequence by sequence."""
    model.eval()
    squared, count = 0.0, 0
    with torch.no_grad():
        for images, lengths, sums in loader:
            squared += (model(images, lengths) - sums).square().sum().item()
            count += len(sums)
    return math.sqrt(squared / count)
