"""The CNN-GRU: a convolutional encoder of single images, GRUs over time, one number out.

Shapes: `B` sequences, `T` time steps, `N` real images of a batch (no padding), `D` features of an
encoded image, `H` width of the last GRU. Packed order is explained in `data`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from crnn_search.hyperparameters import ModelSpec


class CRNN(nn.Module):
    """Predicts the sum of a sequence of digits.

    `encode` and `add_up` are its two halves; training and evaluation call them apart, so that each
    image is encoded once however many sequences it is in.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = _encoder(spec)
        self.feature_size = spec.embedding or spec.conv_channels[-1] * spec.feature_map_size() ** 2
        widths = (self.feature_size, *spec.gru_sizes)
        self.grus = nn.ModuleList(map(nn.GRU, widths[:-1], widths[1:]))
        self.dropout = nn.Dropout(spec.dropout)
        self.output = nn.Linear(widths[-1], 1)

    def encode(self, images: Tensor) -> Tensor:
        """Images in [0, 1], float `(N, 1, 28, 28)`, to features `(N, D)`."""
        features: Tensor = self.encoder(images)
        return features

    def add_up(self, features: Tensor, batch_sizes: Tensor) -> Tensor:
        """Features of a packed batch, `(N, D)`, to predicted sums, float32 `(B,)`.

        batch_sizes: sequences alive at each time step, int64 `(T,)`, on the CPU.
        """
        last = features
        for gru in self.grus:
            packed, last = gru(PackedSequence(features, batch_sizes))
            features = packed.data
        sums: Tensor = self.output(self.dropout(last[-1])).squeeze(1)
        return sums.float()

    def forward(self, images: Tensor, lengths: Tensor) -> Tensor:
        """Predict sums, float32 `(B,)`, encoding only the real images.

        images: float `(B, T, 1, 28, 28)` in [0, 1]; what lies at or beyond a length has no effect.
        lengths: int64 `(B,)`, each from 1 to `T`.
        """
        falling, order = lengths.sort(descending=True, stable=True)
        steps = torch.arange(int(falling[0]), device=lengths.device)
        alive = steps[:, None] < falling[None, :]  # (T, B)
        real = images[order, : len(steps)].transpose(0, 1)[alive]
        sums = self.add_up(self.encode(real), alive.sum(1).cpu())
        return torch.empty_like(sums).index_copy(0, order, sums)


def _encoder(spec: ModelSpec) -> nn.Sequential:
    """Convolution, normalisation, pooling and ReLU of each layer, then flat features.

    Pooling stands before ReLU: the two commute, and fewer pixels are left for the second.
    """
    layers: list[nn.Module] = []
    inputs = 1
    for width, kernel, pool in spec.layers():
        layers.append(
            nn.Conv2d(inputs, width, kernel, padding=spec.padding, bias=not spec.batch_norm)
        )
        if spec.batch_norm:
            layers.append(nn.BatchNorm2d(width))
        if pool > 1:
            layers.append(nn.MaxPool2d(pool))
        layers.append(nn.ReLU())
        inputs = width
    layers.append(nn.Flatten())
    if spec.embedding:
        flat = inputs * spec.feature_map_size() ** 2
        layers += [nn.Linear(flat, spec.embedding), nn.ReLU()]
    return nn.Sequential(*layers)
