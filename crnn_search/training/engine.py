"""Training: `start` makes a `TrainState`, `train_epoch` trains it for one epoch.

The `TrainState` is the one mutable object; between two epochs it is complete and can be saved. All
random draws of an epoch derive from (seed, epoch), so a state that was saved and loaded continues
exactly as if training had never stopped.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from crnn_search.data.sequences import Batch, SequenceTable, derive_seed
from crnn_search.data.task import Draw, Task
from crnn_search.hyperparameters import (
    MNIST_SHAPE,
    Arithmetic,
    ImageShape,
    TrainingSpec,
    TrialConfig,
)
from crnn_search.kernels import native
from crnn_search.kernels.accelerate import accelerate
from crnn_search.training import memory, optimizers
from crnn_search.training.augment import augment
from crnn_search.training.cuda_graphs import GraphedStep, Step
from crnn_search.training.metrics import EpochMetrics, exact_sum_rate, rmse
from crnn_search.training.model import CRNN
from crnn_search.training.predict import predict


@dataclass(frozen=True)
class TrainingData:
    """What a training reads.

    task: its images on the training device. validation: the table that every epoch is validated
    on; None: there is none, since its sequences are training data, too.
    epoch_sequences: training sequences of an epoch.
    """

    task: Task
    validation: SequenceTable | None
    epoch_sequences: int


@dataclass
class TrainState:
    """All that changes during a training; `epoch` epochs of `epochs` are done.

    average: a model with the moving average of the weights, if the configuration has one.
    arithmetic: what the model really computes in. kernels_problem: why compiled kernels were
    requested but are not used, or None. graphed: the captured step, on CUDA; it is not saved.
    """

    config: TrialConfig
    seed: int
    epochs: int
    model: CRNN
    optimizer: torch.optim.Optimizer
    arithmetic: Arithmetic
    average: CRNN | None = None
    epoch: int = 0
    kernels_problem: str | None = None
    graphed: GraphedStep | None = field(default=None, repr=False, compare=False)

    @property
    def result(self) -> CRNN:
        """The model that is validated and exported."""
        return self.model if self.average is None else self.average

    @property
    def note(self) -> str | None:
        """Why this training is slower than requested, or None."""
        if self.kernels_problem is not None:
            return f"training without compiled kernels, which is slower: {self.kernels_problem}"
        return self.graphed.note if self.graphed else None


def start(
    config: TrialConfig,
    *,
    seed: int,
    epochs: int,
    device: torch.device,
    shape: ImageShape = MNIST_SHAPE,
    arithmetic: Arithmetic = Arithmetic(),  # noqa: B008  (frozen)
) -> TrainState:
    """A new model and optimizer. The same `seed` gives the same weights on every device.

    shape: of every image. arithmetic: compiled kernels are used on a CPU that can compile them, and
    only there.

    Raises:
        ConfigError: convolutions leave no pixels of such images.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("weights", seed))
        model = CRNN(config.model, shape, arithmetic.precision)
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    problem = None
    used = dataclasses.replace(arithmetic, cpu_kernels=False)
    if arithmetic.cpu_kernels and device.type == "cpu":
        problem = native.problem()
        if problem is None:
            accelerate(model)
            used = arithmetic
    average = copy.deepcopy(model).requires_grad_(False) if config.training.ema else None
    optimizer = optimizers.make(config.training, model, device)
    return TrainState(
        config, seed, epochs, model, optimizer, used, average, kernels_problem=problem
    )


OnPart = Callable[[float], None]
"""Called after each step with the part of the epoch's steps that are done, up to 1."""


def train_epoch(
    state: TrainState, data: TrainingData, on_part: OnPart = lambda part: None
) -> EpochMetrics:
    """Train one epoch and validate; changes `state`.

    Only training sequences are limited by the configuration's `max_sequence_length`.
    """
    # A CPU computes denormal numbers a hundred times more slowly, and RMSprop's averages decay to
    # them. The setting is the whole process's, so it is reset after the epoch.
    torch.set_flush_denormal(True)
    try:
        return _train_epoch(state, data, on_part)
    finally:
        torch.set_flush_denormal(False)


def _train_epoch(state: TrainState, data: TrainingData, on_part: OnPart) -> EpochMetrics:
    started = time.perf_counter()
    info, images = data.task.info, data.task.images
    spec = state.config.training
    table = data.task.training_table(draw_of(spec, data, state.seed, state.epoch))
    targets = ((table.targets - info.center) / info.scale).float()
    loss = _train_table(state, images, dataclasses.replace(table, targets=targets), on_part)
    trained = time.perf_counter()
    state.epoch += 1
    validation_rmse = exact = None
    if data.validation is not None:
        predictions = predict(state.result, images, data.validation)
        predictions = predictions.double() * info.scale + info.center
        validation_rmse = rmse(predictions, data.validation.targets)
        if info.sums:
            exact = exact_sum_rate(predictions, data.validation.targets)
    return EpochMetrics(
        epoch=state.epoch,
        train_loss=loss * info.scale**2,
        validation_rmse=validation_rmse,
        exact_sum_rate=exact,
        sequences_per_s=len(table) / (trained - started),
        learning_rate=float(state.optimizer.param_groups[0]["lr"]),
        peak_memory_mb=memory.peak_mb(images.device),
        seconds=time.perf_counter() - started,
    )


def draw_of(training: TrainingSpec, data: TrainingData, seed: int, epoch: int) -> Draw:
    """The sequences that an epoch of a training has."""
    return Draw(
        sequences=data.epoch_sequences,
        longest=min(training.max_sequence_length, data.task.info.longest),
        seed=seed,
        epoch=epoch,
        batch_size=training.batch_size,
        everything=data.validation is None,
        reuse=training.reuse,
    )


def _train_table(state: TrainState, images: Tensor, table: SequenceTable, on_part: OnPart) -> float:
    """One pass over a table. Returns the mean squared error of its training steps.

    images: uint8 `(I, C, H, W)`, on the training device.
    """
    spec, device = state.config.training, images.device
    step = _make_step(state, images)
    count = math.ceil(len(table) / spec.batch_size)
    total = torch.zeros((), device=device)
    state.model.train()
    means, values = _averaged(state)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive_seed("steps", state.seed, state.epoch))
        for number, batch in enumerate(_to_device(table.batches(spec.batch_size), device)):
            progress = (state.epoch + number / count) / state.epochs
            lr = optimizers.learning_rate_at(spec, progress)
            optimizers.set_learning_rate(state.optimizer, lr)
            loss = step(batch)
            total += loss * len(batch.targets)
            if means:
                decay = _decay(spec.ema, state.epoch * count + number)
                get_ema_multi_avg_fn(decay)(means, values, None)
            on_part((number + 1) / count)
    return total.item() / len(table)


def _make_step(state: TrainState, all_images: Tensor) -> Step:
    """The function that trains on one batch; on CUDA it is captured as graphs."""
    # Not `state` itself, which has the graphs: they would be freed by a garbage collection only.
    spec, model, optimizer = state.config.training, state.model, state.optimizer

    def step(batch: Batch) -> Tensor:
        pixels = all_images.index_select(0, batch.images)
        if spec.affine or spec.shift or spec.elastic:
            pixels = augment(pixels, spec.affine, spec.shift, spec.elastic)
        loss = F.mse_loss(model(pixels, batch.batch_sizes, batch.rows), batch.targets)
        optimizer.zero_grad()
        loss.backward()
        optimizers.step(optimizer, spec.gradient_clip)
        return loss.detach()

    if all_images.device.type != "cuda":
        return step
    if state.graphed is None:
        state.graphed = GraphedStep(step)
    return state.graphed


def _averaged(state: TrainState) -> tuple[list[Tensor], list[Tensor]]:
    """Weights and batch norm's statistics of the average, and the model's in the same order.

    Batch norm's counts are not averaged: no evaluation reads them.
    """
    if state.average is None:
        return [], []
    means, values = state.average.state_dict(), state.model.state_dict()
    names = [name for name, value in values.items() if value.is_floating_point()]
    return [means[name] for name in names], [values[name] for name in names]


def _decay(highest: float, done: int) -> float:
    """The share of an average that stays after a step, when `done` steps were done before it.

    It rises from 0.1 to the highest one, so that the first weights are soon forgotten.
    """
    return min(highest, (1 + done) / (10 + done))


def _to_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches of an epoch on a device, copied all at once so that no step waits for a copy."""
    if device.type == "cpu":
        yield from batches
        return
    epoch = list(batches)
    moved = {
        name: _moved([getattr(batch, name) for batch in epoch], device)
        for name in ("images", "targets", "rows")
        if getattr(epoch[0], name) is not None
    }
    for number, batch in enumerate(epoch):
        yield dataclasses.replace(batch, **{name: parts[number] for name, parts in moved.items()})


def _moved(parts: list[Tensor], device: torch.device) -> list[Tensor]:
    return list(torch.cat(parts).to(device).split([len(part) for part in parts]))
