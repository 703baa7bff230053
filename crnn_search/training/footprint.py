"""The size of a configuration's network, computed from its spec alone, without PyTorch."""

from __future__ import annotations

from crnn_search.hyperparameters import IMAGE_SIZE, ModelSpec

FLOAT32_BYTES = 4


def parameter_count(spec: ModelSpec) -> int:
    """Number of trainable parameters; PyTorch's GRU has two bias vectors."""
    count, inputs = 0, 1
    for width, kernel, _ in spec.layers():
        count += inputs * width * kernel**2 + (2 * width if spec.batch_norm else width)
        inputs = width
    inputs *= spec.feature_map_size() ** 2
    if spec.embedding:
        count += (inputs + 1) * spec.embedding
        inputs = spec.embedding
    for width in spec.gru_sizes:
        count += 3 * width * (inputs + width + 2)
        inputs = width
    return count + inputs + 1


def peak_memory_mb(spec: ModelSpec, batch_size: int, max_length: int) -> float:
    """A rough upper estimate, in MB, of the memory of a training step.

    Counts weights four times (themselves, their gradients and two optimizer moments) and every
    activation twice (itself and its gradient), all in float32, for a batch of sequences of
    `max_length` images. Code and libraries come on top: about 500 MB on a CPU, a CUDA context on a
    GPU.
    """
    pixels, size, per_image = IMAGE_SIZE**2, IMAGE_SIZE, 0
    for width, kernel, pool in spec.layers():
        size = size if spec.padding == "same" else size - kernel + 1
        per_image += width * size**2 * (2 if spec.batch_norm else 1)
        size //= pool
        per_image += 2 * width * size**2
    per_image += pixels + spec.embedding + 4 * sum(spec.gru_sizes)
    images = batch_size * max_length
    return FLOAT32_BYTES * (4 * parameter_count(spec) + 2 * images * per_image) / 1e6
