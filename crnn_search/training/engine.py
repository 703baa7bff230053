"""Training: `train` is a generator that yields one `EpochMetrics` per epoch.

The one mutable thing is the `TrainState` that the caller makes with `start` and hands over; between
two epochs it is whole and may be saved. Every random draw of an epoch comes from (seed, epoch), so
a state that was saved and loaded goes on exactly as if it had never stopped.

Shapes: `B` sequences of a batch, `N` its real images, `S` sequences of a table, `D` features.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crnn_search.data.sequences import Batch, Digits, SequenceTable, derive_seed, training_table
from crnn_search.errors import ConfigError
from crnn_search.hyperparameters import TrainingSpec, TrialConfig
from crnn_search.kernels import encoder, native
from crnn_search.kernels import gru as recurrence
from crnn_search.training import memory, optimizers
from crnn_search.training.cuda_graphs import Step, Steps
from crnn_search.training.model import CRNN

ENCODING_CHUNK = 512
"""Images encoded at once in evaluation: small enough to stay in a CPU's cache."""

ADDING_CHUNK = 1024
"""Sequences added up at once in evaluation."""

WARM_UP = 0.25
"""Share of a one-cycle schedule in which the learning rate rises."""


@dataclass(frozen=True)
class EpochMetrics:
    """What one epoch gave. Losses and RMSE are of sums; validation is missing without a table."""

    epoch: int
    train_loss: float
    validation_rmse: float | None
    exact_sum_rate: float | None
    sequences_per_s: float
    learning_rate: float
    peak_memory_mb: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The metrics by name."""
        return asdict(self)


@dataclass(frozen=True)
class TrainingData:
    """What a training reads.

    digits: images and labels, on the training device.
    pool: indices of the images that training sequences are drawn from, int64 `(P,)`, on the CPU.
    validation: the fixed table that every epoch is measured on, or None.
    epoch_sequences: training sequences of an epoch.
    max_digits: length of the task's longest sequence.
    """

    digits: Digits
    pool: Tensor
    validation: SequenceTable | None
    epoch_sequences: int
    max_digits: int


@dataclass
class TrainState:
    """All that changes during a training; `epoch` epochs of `epochs` are done.

    steps: captured steps, on a GPU. They are no part of what is saved.
    """

    config: TrialConfig
    seed: int
    epochs: int
    model: CRNN
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    steps: Steps | None = field(default=None, repr=False, compare=False)

    @property
    def note(self) -> str | None:
        """What should be known of how it was trained."""
        if self.steps:
            return self.steps.note
        if next(self.model.parameters()).device.type == "cpu" and native.problem():
            return f"training on PyTorch's own layers, which are slower: {native.problem()}"
        return None


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; `auto` is CUDA, else MPS, else the CPU."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def start(config: TrialConfig, *, seed: int, epochs: int, device: torch.device) -> TrainState:
    """A fresh network and optimizer. The same `seed` gives the same weights on every device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("weights", seed))
        model = CRNN(config.model)
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return TrainState(config, seed, epochs, model, optimizers.make(config.training, model, device))


def train(state: TrainState, data: TrainingData) -> Iterator[EpochMetrics]:
    """Train from `state.epoch` to `state.epochs`, yielding after each epoch; changes `state`.

    Only training sequences are limited by the configuration's `max_sequence_length`.
    """
    while state.epoch < state.epochs:
        # Numbers near zero that a CPU computes a hundred times slower; RMSprop's averages fade to
        # them. The setting is the whole process's, so it is taken back before anyone else computes.
        torch.set_flush_denormal(True)
        try:
            metrics = _train_epoch(state, data)
        finally:
            torch.set_flush_denormal(False)
        yield metrics


def predict(
    model: CRNN, digits: Digits, table: SequenceTable, *, precision: str = "float32"
) -> Tensor:
    """Predicted sums, float32 `(S,)` on the CPU, in the table's order.

    Encodes each distinct image once: images repeat within and between sequences, and a network in
    evaluation mode gives an image the same features wherever it stands.
    """
    was_training = model.training
    model.eval()
    device = digits.images.device
    on_cpu = device.type == "cpu"
    sums = torch.empty(len(table))
    with torch.inference_mode():
        distinct, place = _distinct_images(table, len(digits.images))
        gates = torch.cat(
            [
                _project(
                    model,
                    _encode(model, digits.images.index_select(0, chunk.to(device)), precision),
                    precision,
                    on_cpu,
                )
                for chunk in distinct.split(ENCODING_CHUNK)
            ]
        )
        for batch in table.batches(ADDING_CHUNK, by_length=True):
            rows = gates[place[batch.images].to(device)]
            sums[batch.order] = _add_up(model, rows, batch.batch_sizes, on_cpu).cpu()
    model.train(was_training)
    return sums


def rmse(predictions: Tensor, sums: Tensor) -> float:
    """Root of the mean squared error; not a number if a prediction is none."""
    return math.sqrt((predictions.double() - sums.double()).square().mean().item())


def exact_sum_rate(predictions: Tensor, sums: Tensor) -> float:
    """Share of the predictions that round to the true sum."""
    return (predictions.round() == sums).double().mean().item()


def learning_rate_at(spec: TrainingSpec, progress: float) -> float:
    """The learning rate when the share `progress` of all steps is done.

    One cycle (Smith, arXiv:1708.07120): a cosine from 1/25 up to the full rate, then one down to
    1/1000 of it.
    """
    if spec.schedule == "constant":
        return spec.learning_rate
    if progress < WARM_UP:
        return spec.learning_rate * _cosine(1 / 25, 1.0, progress / WARM_UP)
    return spec.learning_rate * _cosine(1.0, 1e-3, (progress - WARM_UP) / (1 - WARM_UP))


def augment(images: Tensor, strength: float) -> Tensor:
    """Random affine distortions of images, float `(N, 1, 28, 28)`.

    At strength 1 each image turns by up to 15°, scales and shears by up to 15 % and moves by up to
    2 pixels, all uniform. Draws from PyTorch's global generator.
    """
    draw = torch.rand(5, len(images), device=images.device).mul_(2).sub_(1).mul_(strength)
    angle, scale, shear = draw[0] * math.radians(15), 1 + 0.15 * draw[1], 0.15 * draw[2]
    shift = draw[3:] * (2 * 2 / images.shape[-1])
    cos, sin = angle.cos() * scale, angle.sin() * scale
    top = torch.stack([cos, shear - sin, shift[0]], dim=1)
    bottom = torch.stack([sin, cos, shift[1]], dim=1)
    grid = F.affine_grid(torch.stack([top, bottom], dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def resolve_precision(precision: str, device: torch.device) -> str:
    """`float32`, `bfloat16` or `int16`.

    `auto` takes bfloat16 where the device computes in it natively, else int16 where that is faster.

    Raises:
        ConfigError: int16 where there are no kernels for it.
    """
    if precision == "int16" and not _in_c(device):
        lacking = (
            f"compiled kernels, but {native.problem()}"
            if device.type == "cpu"
            else f"a CPU; received {device.type}"
        )
        raise ConfigError([f"precision int16 needs {lacking}; valid here: auto, float32, bfloat16"])
    if precision != "auto":
        return precision
    if device.type == "cuda":
        computes = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        computes = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    if computes:
        return "bfloat16"
    return "int16" if _in_c(device) and native.int16_gains() else "float32"


def _train_epoch(state: TrainState, data: TrainingData) -> EpochMetrics:
    started = time.perf_counter()
    spec, device = state.config.training, data.digits.images.device
    labels = data.digits.labels.cpu()
    longest = min(spec.max_sequence_length, data.max_digits)
    table = training_table(
        data.pool, labels, data.epoch_sequences, longest, state.seed, state.epoch
    )
    loss = _train_table(state, data.digits, table)
    trained = time.perf_counter()
    state.epoch += 1
    validation_rmse = exact = None
    if data.validation is not None:
        precision = resolve_precision(spec.precision, device)
        predictions = predict(state.model, data.digits, data.validation, precision=precision)
        validation_rmse = rmse(predictions, data.validation.sums)
        exact = exact_sum_rate(predictions, data.validation.sums)
    return EpochMetrics(
        epoch=state.epoch,
        train_loss=loss,
        validation_rmse=validation_rmse,
        exact_sum_rate=exact,
        sequences_per_s=len(table) / (trained - started),
        learning_rate=float(state.optimizer.param_groups[0]["lr"]),
        peak_memory_mb=memory.peak_mb(device),
        seconds=time.perf_counter() - started,
    )


def _train_table(state: TrainState, digits: Digits, table: SequenceTable) -> float:
    """One pass over a table; returns the mean squared error that training saw."""
    spec, device = state.config.training, digits.images.device
    step = _step_of(state, digits, resolve_precision(spec.precision, device))
    count = math.ceil(len(table) / spec.batch_size)
    total = torch.zeros((), device=device)
    state.model.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive_seed("steps", state.seed, state.epoch))
        for number, batch in enumerate(_on_device(table.batches(spec.batch_size), device)):
            progress = (state.epoch + number / count) / state.epochs
            optimizers.set_rate(state.optimizer, learning_rate_at(spec, progress))
            loss = step(batch.images, batch.targets, batch.batch_sizes)
            total += loss * len(batch.targets)
    return total.item() / len(table)


def _step_of(state: TrainState, digits: Digits, precision: str) -> Step:
    """The function that trains on a batch: captured as CUDA graphs where there is CUDA.

    cuDNN's GRU copies lengths from the host, which cannot be captured; ours can.
    """

    def step(own_gru: bool, images: Tensor, targets: Tensor, batch_sizes: Tensor) -> Tensor:
        spec, model = state.config.training, state.model
        features = _encode(
            model, digits.images.index_select(0, images), precision, spec.augmentation
        )
        rows = _project(model, features, precision, own_gru)
        loss = F.mse_loss(_add_up(model, rows, batch_sizes, own_gru), targets)
        optimizers.clear(state.optimizer)
        loss.backward()
        optimizers.step(state.optimizer, spec.gradient_clip)
        return loss.detach()

    on_cpu = digits.images.device.type == "cpu"
    eager = functools.partial(step, on_cpu)
    if digits.images.device.type != "cuda":
        return eager
    if state.steps is None:
        captured = functools.partial(step, True)
        state.steps = Steps(state.model, state.optimizer, captured, eager)
    return state.steps


def _on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches of an epoch, brought to a device at once: nothing waits for a copy later."""
    if device.type == "cpu":
        yield from batches
        return
    held = list(batches)
    images = torch.cat([batch.images for batch in held]).to(device)
    targets = torch.cat([batch.targets for batch in held]).to(device)
    parts = zip(
        held,
        images.split([len(batch.images) for batch in held]),
        targets.split([len(batch.targets) for batch in held]),
        strict=True,
    )
    for batch, own_images, own_targets in parts:
        yield dataclasses.replace(batch, images=own_images, targets=own_targets)


def _encode(model: CRNN, images: Tensor, precision: str, augmentation: float = 0.0) -> Tensor:
    """Features `(N, D)` of uint8 images `(N, 28, 28)`, in the precision of the convolutions."""
    scale = 1 / 255
    if augmentation:
        images = augment(images.unsqueeze(1).float().div_(255), augmentation).squeeze(1)
        scale = 1.0
    if _in_c(images.device):
        return encoder.encode(model.encoder, model.spec, images, scale, precision)
    inputs = images.unsqueeze(1).to(torch.float32, memory_format=torch.channels_last) * scale
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        features: Tensor = model.encoder(inputs)
    return features


def _project(model: CRNN, features: Tensor, precision: str, own_gru: bool) -> Tensor:
    """What the first GRU of `recurrence` makes of each image alone: `(N, 3H)`; else features."""
    if not own_gru:
        return features.float()
    weight, bias = recurrence.of_input(_grus(model)[0])
    if _in_c(features.device) and not model.spec.embedding:
        weight = encoder.by_pixel(weight, model.spec.conv_channels[-1])
    kind = features.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=features.dtype == torch.bfloat16):
        return encoder.linear(features, weight, bias, precision).float()


def _in_c(device: torch.device) -> bool:
    """Whether images are encoded by `layers`."""
    return device.type == "cpu" and native.problem() is None


def _grus(model: CRNN) -> list[nn.GRU]:
    return [gru for gru in model.grus if isinstance(gru, nn.GRU)]


def _add_up(model: CRNN, projected: Tensor, batch_sizes: Tensor, own_gru: bool) -> Tensor:
    """Sums, float32 `(B,)`, of a packed batch of what `_project` gave."""
    if not own_gru:
        return model.add_up(projected, batch_sizes)
    first, *others = _grus(model)
    states, last = recurrence.run(first, projected, batch_sizes)
    for gru in others:
        states, last = recurrence.run(gru, F.linear(states, *recurrence.of_input(gru)), batch_sizes)
    sums: Tensor = model.output(model.dropout(last)).squeeze(1)
    return sums


def _distinct_images(table: SequenceTable, count: int) -> tuple[Tensor, Tensor]:
    """The images a table uses, sorted, `(U,)`, and of each of `count` images its place there."""
    steps = torch.arange(table.indices.shape[1])
    used = torch.zeros(count, dtype=torch.bool)
    used[table.indices[steps[None, :] < table.lengths[:, None]].long()] = True
    return used.nonzero().flatten(), used.cumsum(0) - 1


def _cosine(first: float, last: float, progress: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2
