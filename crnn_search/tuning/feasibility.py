"""Whether a sampled network predicts fast enough to be searched."""

from __future__ import annotations

from collections.abc import Callable

from crnn_search.errors import ConfigError
from crnn_search.hyperparameters import ImageShape, ModelSpec
from crnn_search.spaces.space import SearchSpace
from crnn_search.text import first_line
from crnn_search.training.prediction_time import ms_per_sequence

Measure = Callable[[ModelSpec, ImageShape, int, float], float]
"""As `ms_per_sequence`."""


def check_time(space: SearchSpace, model: ModelSpec, measure: Measure = ms_per_sequence) -> None:
    """Check that a network predicts as fast on this machine as the space asks for.

    Raises:
        ConfigError: it is slower, or its time cannot be measured.
    """
    limit_ms, images = space.search.max_ms_per_sequence, space.images
    if limit_ms is None:
        return
    try:
        measured_ms = measure(model, images.shape, images.longest, limit_ms)
    except (RuntimeError, MemoryError) as error:  # PyTorch's allocator has none of its own
        reason = f"the time that the network takes cannot be measured: {first_line(error)}"
        raise ConfigError([reason]) from error
    shown_ms = float(f"{measured_ms:.3g}")
    if shown_ms > limit_ms:
        limit = f"search.max_ms_per_sequence is {limit_ms:g}"
        raise ConfigError([f"the network takes {shown_ms:g} ms for a sequence; {limit}"])
