"""The size of a configuration's network, computed from its spec alone, without PyTorch."""

from __future__ import annotations

from crnn_search.errors import ConfigError
from crnn_search.hyperparameters import ImageShape, ModelSpec, TrialConfig

FLOAT32_BYTES = 4


def parameter_count(spec: ModelSpec, shape: ImageShape) -> int:
    """Number of trainable parameters for images of `shape`; PyTorch's GRU has two bias vectors.

    Raises:
        ConfigError: a convolution leaves no pixels.
    """
    count, inputs = 0, shape.channels
    for width, kernel, _ in spec.layers():
        count += inputs * width * kernel**2 + (2 * width if spec.batch_norm else width)
        inputs = width
    rows, columns = spec.feature_map_size(shape)
    inputs *= rows * columns
    if spec.embedding:
        count += (inputs + 1) * spec.embedding
        inputs = spec.embedding
    for width in spec.gru_sizes:
        count += 3 * width * (inputs + width + 2)
        inputs = width
    return count + inputs + 1


def check_network(spec: ModelSpec, shape: ImageShape, max_parameters: int | None) -> None:
    """Check that a network can be built for images of `shape`, and is not too large.

    Raises:
        ConfigError: a convolution leaves no pixels, or it has more than `max_parameters`.
    """
    count = parameter_count(spec, shape)
    if max_parameters is not None and count > max_parameters:
        raise ConfigError(
            [f"it has {count:,} parameters; search.max_parameters is {max_parameters:,}"]
        )


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
    weights = (5 if training.ema else 4) * parameter_count(spec, shape)
    return FLOAT32_BYTES * (weights + 2 * activations) / 1e6
