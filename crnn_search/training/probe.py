"""What a training takes of a device, memory and time, measured by a short one."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from crnn_search.data.task import Task
from crnn_search.hyperparameters import Arithmetic, TrainingSpec, TrialConfig
from crnn_search.training import engine, memory
from crnn_search.training.cuda_graphs import WARM_UP_STEPS
from crnn_search.training.engine import TrainingData, TrainState
from crnn_search.training.predict import predict

PACE_SEQUENCES = 512
"""Sequences of an epoch whose time is measured on a CPU; a batch, where that has more."""


@dataclass(frozen=True)
class Cost:
    """What a trial takes.

    search_epoch_s: seconds of an epoch of the search, its validation included. retrain_epoch_s: of
    one of a retraining, which has none. memory_mb: its peak on a GPU, CUDA's context included; on a
    CPU that of the process so far.
    """

    search_epoch_s: float
    retrain_epoch_s: float
    memory_mb: float


def peak_of(config: TrialConfig, task: Task, epoch_sequences: int, arithmetic: Arithmetic) -> float:
    """Peak memory in MB of a trial of a search, on the device of `task`.

    Runs each shape of batch that an epoch has until it is captured, and validates as a search does.

    task: on the device. epoch_sequences: of an epoch of the search.
    """
    device, info = task.images.device, task.info
    sequences = shortest_epoch(epoch_sequences, config.training, info.longest)
    data = TrainingData(task, task.validation_table(), sequences)
    epochs = 1
    if device.type == "cuda":
        epochs += WARM_UP_STEPS
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    state = engine.start(
        config, seed=0, epochs=epochs, device=device, shape=info.shape, arithmetic=arithmetic
    )
    for _ in range(epochs):
        engine.train_epoch(state, data)
    return memory.reserved_mb(device)


def pace_of(config: TrialConfig, task: Task, epoch_sequences: int, arithmetic: Arithmetic) -> float:
    """Seconds that a trial takes for a training sequence, without validation.

    task: on the device. epoch_sequences: of an epoch.
    """
    return _trained(config, task, epoch_sequences, arithmetic)[1]


def cost_of(
    config: TrialConfig, task: Task, epoch_sequences: tuple[int, int], arithmetic: Arithmetic
) -> Cost:
    """What a trial of a search, or of a retraining, takes on the device of `task`.

    Trains a little, and validates once as a search does.

    task: on the device. epoch_sequences: of an epoch of the search, and of one of a retraining.
    """
    device, context_mb = task.images.device, 0.0
    if device.type == "cuda":
        context_mb = memory.GPU_CONTEXT_MB
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    state, sequence_s = _trained(config, task, epoch_sequences[0], arithmetic)
    validation = task.validation_table()
    started = time.perf_counter()
    predict(state.result, task.images, validation)
    validation_s = time.perf_counter() - started
    search, retraining = (
        len(task.training_table(engine.draw_of(config.training, data, seed=0, epoch=0)))
        for data in (
            TrainingData(task, validation, epoch_sequences[0]),
            TrainingData(task, None, epoch_sequences[1]),
        )
    )
    return Cost(
        search_epoch_s=search * sequence_s + validation_s,
        retrain_epoch_s=retraining * sequence_s,
        memory_mb=memory.reserved_mb(device) + context_mb,
    )


def _trained(
    config: TrialConfig, task: Task, epoch_sequences: int, arithmetic: Arithmetic
) -> tuple[TrainState, float]:
    """A training of two short epochs, and the seconds of a sequence in the faster one."""
    device, info = task.images.device, task.info
    sequences = min(epoch_sequences, max(PACE_SEQUENCES, config.training.batch_size))
    epochs = 2
    if device.type == "cuda":  # until every shape of batch is captured
        sequences = shortest_epoch(epoch_sequences, config.training, info.longest)
        epochs += WARM_UP_STEPS
    data = TrainingData(task, None, sequences)
    state = engine.start(
        config, seed=0, epochs=epochs, device=device, shape=info.shape, arithmetic=arithmetic
    )
    return state, 1 / max(engine.train_epoch(state, data).sequences_per_s for _ in range(epochs))


def shortest_epoch(sequences: int, training: TrainingSpec, longest: int) -> int:
    """The sequences of a short epoch whose batches have all shapes of a longer one, in its order.

    Lengths cycle through 1 to the longest, those of reused images in each of a batch's partitions,
    so shapes repeat; the last batch may be smaller.

    longest: images of the longest sequence of the data.
    """
    full, rest = divmod(sequences, training.batch_size)
    lengths = min(training.max_sequence_length, longest)
    cycle = lengths // math.gcd(lengths, training.batch_size // training.reuse)
    if full > cycle:
        full = cycle + full % cycle
    return full * training.batch_size + rest
