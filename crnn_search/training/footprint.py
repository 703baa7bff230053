"""The memory of a training, estimated from its configuration alone, without PyTorch."""

from __future__ import annotations

from crnn_search.hyperparameters import ImageShape, TrialConfig

FLOAT32_BYTES = 4


def peak_memory_mb(config: TrialConfig, shape: ImageShape, longest: int) -> float:
    """A rough upper estimate, in MB, of the memory of a training step on images of `shape`.

    Counts weights four times (themselves, their gradients and two optimizer moments), their moving
    average, if there is one, and every activation twice (itself and its gradient), all in float32,
    for a batch of the longest training sequences. Code and libraries come on top: about 500 MB on a
    CPU, a CUDA context on a GPU.

    longest: images of the longest sequence of the data.

    Raises:
        ConfigError: a convolution leaves no pixels.
    """
    spec, training = config.model, config.training
    channels, rows, columns = shape
    per_image = channels * rows * columns
    for width, kernel, pool in spec.layers():
        lost = 0 if spec.padding == "same" else kernel - 1
        rows, columns = rows - lost, columns - lost
        per_image += width * rows * columns * (2 if spec.batch_norm else 1)
        rows, columns = rows // pool, columns // pool
        per_image += 2 * width * rows * columns
    per_image += spec.embedding
    images = training.batch_size * min(training.max_sequence_length, longest)
    activations = images // training.reuse * per_image + images * 4 * sum(spec.gru_sizes)
    weights = (5 if training.ema else 4) * spec.parameter_count(shape)
    return FLOAT32_BYTES * (weights + 2 * activations) / 1e6
