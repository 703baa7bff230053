"""How long a network takes to predict, measured on a CPU."""

from __future__ import annotations

import math
import time

import torch

from crnn_search.data.sequences import SequenceTable
from crnn_search.hyperparameters import MNIST_SHAPE, ImageShape, ModelSpec
from crnn_search.training.model import CRNN
from crnn_search.training.predict import predict

BATCH, FEW = 64, 4
"""Sequences that are predicted at once; and in the first pass, which warms up."""

IMAGES = 512
"""Images of 28 × 28 pixels in a batch, at most. Of larger images, and of longer sequences, fewer
time steps are measured: the time is in proportion to them."""

PASSES = 5

FAR_TOO_SLOW = 10
"""A network that takes so many times the limit is not measured again."""

LONG_S = 0.1
"""A first pass that takes longer than this does so for the network, not for being the first."""


def ms_per_sequence(spec: ModelSpec, shape: ImageShape, longest: int, limit_ms: float) -> float:
    """CPU time, in ms, that one thread takes to predict one of a batch of 64 sequences.

    In float32, without compiled kernels, on random images. It is the lowest of five passes after
    one that warms up; of fewer, once it is at most `limit_ms` or if it is far above.

    shape: of every image. longest: images of a sequence.
    """
    pixels = IMAGES * MNIST_SHAPE.rows * MNIST_SHAPE.columns
    steps = min(longest, max(1, pixels // (BATCH * shape.rows * shape.columns)))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            lowest_s = _lowest(CRNN(spec, shape), steps, limit_ms / 1000 * steps / longest)
    finally:
        torch.set_num_threads(threads)
    return 1000 * lowest_s * longest / steps


def _lowest(model: CRNN, steps: int, limit_s: float) -> float:
    """CPU seconds for a sequence of `steps` images. limit_s: for such a one, too."""
    few_s = _seconds(model, FEW, steps)
    if few_s > LONG_S and few_s / FEW > FAR_TOO_SLOW * limit_s:
        return few_s / FEW
    lowest = math.inf
    for _ in range(PASSES):
        lowest = min(lowest, _seconds(model, BATCH, steps) / BATCH)
        if not limit_s < lowest <= FAR_TOO_SLOW * limit_s:
            break
    return lowest


def _seconds(model: CRNN, sequences: int, steps: int) -> float:
    """CPU seconds of this thread for a batch of sequences of `steps` random images."""
    count = sequences * steps
    images = torch.randint(256, (count, *model.shape), dtype=torch.uint8)
    indices = torch.arange(count, dtype=torch.int32).view(sequences, steps)
    table = SequenceTable(indices, torch.full((sequences,), steps), torch.zeros(sequences))
    start = time.thread_time()
    predict(model, images, table)
    return time.thread_time() - start
