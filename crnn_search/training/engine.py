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
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from crnn_search.data.sequences import Batch, Digits, SequenceTable, derive_seed, training_table
from crnn_search.hyperparameters import TrialConfig
from crnn_search.kernels import native
from crnn_search.training import memory, optimizers
from crnn_search.training.cuda_graphs import Step, Steps
from crnn_search.training.forward import _add_up, _encode, _project, resolve_precision
from crnn_search.training.metrics import EpochMetrics, exact_sum_rate, rmse
from crnn_search.training.model import CRNN
from crnn_search.training.optimizers import learning_rate_at
from crnn_search.training.predict import predict


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
