"""The CNN-GRU: a convolutional encoder of single images, GRUs over time, one number per sequence.

Shapes: `B` sequences, `T` time steps, `N` real images of a batch (no padding), `M` images that are
encoded for it, `D` features of an encoded image, `G` hidden size of the first GRU. Images are
`(C, H, W)`: channels, rows, columns.
`data.sequences` explains packed batches.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from crnn_search.hyperparameters import MNIST_SHAPE, ImageShape, ModelSpec
from crnn_search.training.gru import PackedGRU


class CRNN(nn.Module):
    """Predicts a number of a sequence of images; trains, evaluates and exports.

    `forward` is `decode(encode(images))`. Evaluation calls the halves separately, so that it
    encodes each image once, in however many sequences it occurs.

    shape: of every image. precision: dtype of convolutions and input products; parameters and the
    rest are float32. Raises `ConfigError` if convolutions leave no pixels of such images.
    """

    def __init__(
        self,
        spec: ModelSpec,
        shape: ImageShape = MNIST_SHAPE,
        precision: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        super().__init__()
        self.spec = spec
        self.shape = shape
        self.precision = precision
        self.encoder: nn.Module = Encoder(spec, shape)
        self.feature_size = spec.embedding or _flat_size(spec, shape)
        widths = (self.feature_size, *spec.gru_sizes)
        self.grus = nn.ModuleList(map(PackedGRU, widths[:-1], widths[1:]))
        self.feature_dropout = nn.Dropout(spec.feature_dropout)
        self.dropout = nn.Dropout(spec.dropout)
        self.output = nn.Linear(widths[-1], 1)

    def forward(self, images: Tensor, batch_sizes: Tensor, rows: Tensor | None = None) -> Tensor:
        """Images of a packed batch, `(M, C, H, W)`, to predicted sums, float32 `(B,)`.

        See `encode` for the images and `decode` for the batch sizes and the order of the sums.
        rows: of each real image, in packed order, its place in `images`, int64 `(N,)`; None: they
        are in packed order themselves.
        """
        gates = self.encode(images)
        return self.decode(gates if rows is None else gates.index_select(0, rows), batch_sizes)

    @torch.no_grad()
    def scale_output(self, center: float, scale: float) -> None:
        """Let predictions `y` become `scale * y + center`: from standardised ones to the unit."""
        self.output.weight.mul_(scale)
        self.output.bias.mul_(scale).add_(center)

    def encode(self, images: Tensor) -> Tensor:
        """Images to the part of the first GRU's gates that depends on them alone.

        images: `(M, C, H, W)`, uint8, or float in [0, 1]. Returns float32 `(M, 3G)`.
        """
        kind, reduced = images.device.type, self.precision == "bfloat16"
        with torch.autocast(kind, torch.bfloat16, enabled=reduced):
            features = self.feature_dropout(self.encoder(images))
            gates: Tensor = self.grus[0].project(features)  # type: ignore[operator]
        return gates.float()

    def decode(self, gates: Tensor, batch_sizes: Tensor) -> Tensor:
        """What `encode` returned, in packed order, to sums, float32 `(B,)`, longest sequence first.

        gates: float32 `(N, 3G)`. batch_sizes: sequences that are active at each time step, int64
        `(T,)`, on the CPU.
        """
        return self._predict(self._states(gates, batch_sizes)[1])

    def decode_running(self, gates: Tensor, batch_sizes: Tensor) -> Tensor:
        """The same to the sum after each image, float32 `(N,)`, in packed order."""
        return self._predict(self._states(gates, batch_sizes)[0])

    def _states(self, gates: Tensor, batch_sizes: Tensor) -> tuple[Tensor, Tensor]:
        """All states of the last GRU, and each sequence's last one."""
        first, *deeper = self.grus
        states, last = first.recur(gates, batch_sizes)  # type: ignore[operator]
        for gru in deeper:
            states, last = gru.recur(gru.project(states), batch_sizes)  # type: ignore[operator]
        return states, last

    def _predict(self, states: Tensor) -> Tensor:
        sums: Tensor = self.output(self.dropout(states)).squeeze(1)
        return sums


class Encoder(nn.Sequential):
    """Convolution, normalisation, pooling and ReLU of each layer, then flat features.

    Pooling comes before ReLU: the two commute, and ReLU then has fewer pixels.
    """

    def __init__(self, spec: ModelSpec, shape: ImageShape) -> None:
        layers: list[nn.Module] = []
        channels = shape.channels
        for width, kernel, pool in spec.layers():
            layers.append(
                nn.Conv2d(channels, width, kernel, padding=spec.padding, bias=not spec.batch_norm)
            )
            if spec.batch_norm:
                layers.append(nn.BatchNorm2d(width))
            if pool > 1:
                layers.append(nn.MaxPool2d(pool))
            layers.append(nn.ReLU())
            channels = width
        layers.append(nn.Flatten())
        if spec.embedding:
            layers += [nn.Linear(_flat_size(spec, shape), spec.embedding), nn.ReLU()]
        super().__init__(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Images `(N, C, H, W)`, uint8, or float in [0, 1], to features `(N, D)`."""
        pixels = images.to(torch.float32, memory_format=torch.channels_last)
        if images.dtype == torch.uint8:
            pixels = pixels * (1 / 255)
        for layer in self:
            pixels = layer(pixels)
        return pixels


def _flat_size(spec: ModelSpec, shape: ImageShape) -> int:
    """The number of values that the convolutions give for an image."""
    rows, columns = spec.feature_map_size(shape)
    return spec.conv_channels[-1] * rows * columns
