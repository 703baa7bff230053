"""What a training takes of a device, memory and time, measured by a short one."""

from __future__ import annotations

import math

import torch

from crnn_search.data.task import Task
from crnn_search.hyperparameters import Arithmetic, TrainingSpec, TrialConfig
from crnn_search.training import engine, memory
from crnn_search.training.cuda_graphs import WARM_UP_STEPS
from crnn_search.training.engine import TrainingData

PACE_SEQUENCES = 512
"""Sequences of an epoch whose time is measured on a CPU."""


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
    device, info = task.images.device, task.info
    sequences, epochs = min(epoch_sequences, PACE_SEQUENCES), 2
    if device.type == "cuda":  # until every shape of batch is captured
        sequences = shortest_epoch(epoch_sequences, config.training, info.longest)
        epochs += WARM_UP_STEPS
    data = TrainingData(task, None, sequences)
    state = engine.start(
        config, seed=0, epochs=epochs, device=device, shape=info.shape, arithmetic=arithmetic
    )
    return 1 / [engine.train_epoch(state, data) for _ in range(epochs)][-1].sequences_per_s


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
