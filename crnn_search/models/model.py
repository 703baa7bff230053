"""An exported model as a function from NumPy's arrays to predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crnn_search.errors import InputError
from crnn_search.hyperparameters import ImageShape
from crnn_search.text import shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from crnn_search.models.predictor import Predictor


@dataclass(frozen=True)
class Model:
    """An exported model, on the CPU. predictor: the same for tensors of PyTorch."""

    predictor: Predictor

    def predict(self, images: ArrayLike, lengths: ArrayLike | None = None) -> NDArray[np.float32]:
        """The prediction for each sequence, float32 `(B,)`, in the target's unit.

        images: `(B, T, C, H, W)`, or `(B, T, H, W)` if a model takes grey images; uint8, or floats
        in [0, 1]. Those of MNIST are 28 × 28, white on black.
        lengths: real images of each sequence, whole numbers from 1 to T, `(B,)`; images beyond
        have no effect. By default T.

        Raises:
            InputError: a shape, dtype or value is not valid.
        """
        import torch

        pixels = _pixels(images, self.predictor.shape)
        counts = _lengths(lengths, len(pixels), pixels.shape[1])
        predictions = self.predictor(torch.from_numpy(pixels), torch.from_numpy(counts))
        result: NDArray[np.float32] = predictions.numpy()
        return result


def _pixels(images: ArrayLike, shape: ImageShape) -> NDArray[np.float32]:
    """Images of a shape as models take them: float32 `(B, T, C, H, W)` in [0, 1]."""
    import numpy as np

    from crnn_search.models.predictor import shape_text

    pixels, grey = np.asarray(images), shape.channels == 1
    if grey and pixels.ndim == 4:
        pixels = pixels[:, :, None]
    if pixels.ndim != 5 or pixels.shape[2:] != shape or 0 in pixels.shape:
        valid = [shape_text(shape[1:])] * grey + [shape_text(shape)]
        raise InputError(f"images must have the shape {' or '.join(valid)}, got {np.shape(images)}")
    if pixels.dtype == np.uint8:
        return pixels.astype(np.float32) / np.float32(255)
    if pixels.dtype.kind != "f" or not (pixels.min() >= 0 and pixels.max() <= 1):
        raise InputError(
            f"images must be uint8, or floats from 0 to 1, got {pixels.dtype} from "
            f"{pixels.min()} to {pixels.max()}"
        )
    return np.array(pixels, dtype=np.float32)


def _lengths(lengths: ArrayLike | None, count: int, longest: int) -> NDArray[np.int64]:
    """Lengths as models take them: int64 `(B,)`."""
    import numpy as np

    found = np.full(count, longest) if lengths is None else np.asarray(lengths)
    whole = found.dtype.kind in "iu"
    if not whole or found.shape != (count,) or found.min() < 1 or found.max() > longest:
        raise InputError(
            f"lengths must be {count} whole numbers from 1 to {longest}, got {shown(lengths)}"
        )
    return found.astype(np.int64)
