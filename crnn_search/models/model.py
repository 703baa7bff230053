"""An exported model as an object: predictions for arrays and for image files.

Shapes: `B` sequences, `T` time steps, `C` channels, `H` rows, `W` columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crnn_search.errors import InputError
from crnn_search.models.input_warnings import InputWarning, refuse
from crnn_search.text import shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from crnn_search.data.task_info import TaskInfo
    from crnn_search.hyperparameters import ImageShape
    from crnn_search.models.predictor import Predictor
    from crnn_search.models.preprocessing import Prepared, Preprocessing


@dataclass(frozen=True)
class Prediction:
    """What a model says of a sequence.

    value: its prediction, in the target's unit. running: that after each of its images, the last of
    which is `value`. warnings: why it may be wrong.
    """

    value: float
    running: list[float]
    warnings: list[InputWarning]

    def to_dict(self) -> dict[str, Any]:
        """The prediction by name, ready for JSON."""
        warnings = [warning.to_dict() for warning in self.warnings]
        return {"prediction": self.value, "running": self.running, "warnings": warnings}


@dataclass(frozen=True)
class Model:
    """An exported model, on the CPU. predictor: the same without checks of values."""

    predictor: Predictor

    @property
    def task(self) -> TaskInfo:
        """What is predicted, in which unit, from which images."""
        return self.predictor.task

    @property
    def spec(self) -> dict[str, Any]:
        """The hyperparameters of the network and of its training, by name."""
        return self.predictor.info.config.to_dict()

    @property
    def metrics(self) -> dict[str, Any]:
        """How it did on the run's test sequences: RMSE, interval, by length, baselines; or {}."""
        return self.predictor.info.metrics

    @property
    def preprocessing(self) -> Preprocessing:
        """How image files are prepared for it."""
        return self.predictor.info.preprocessing

    def predict(self, images: ArrayLike, lengths: ArrayLike | None = None) -> NDArray[np.float32]:
        """The prediction for each sequence, float32 `(B,)`, in the target's unit.

        images: `(B, T, C, H, W)`, or `(B, T, H, W)` if a model takes grey images; uint8, or floats
        in [0, 1]. Those of MNIST are 28 × 28, white on black.
        lengths: real images of each sequence, whole numbers from 1 to T, `(B,)`; images beyond
        have no effect. By default T.

        Raises:
            InputError: a shape, dtype or value is not valid.
        """
        return self.predictor(*self._inputs(images, lengths))

    def predict_running(
        self, images: ArrayLike, lengths: ArrayLike | None = None
    ) -> NDArray[np.float32]:
        """The prediction after each image, float32 `(B, T)`; NaN from a sequence's length on.

        Takes and raises what `predict` does.
        """
        return self.predictor.running(*self._inputs(images, lengths))

    def predict_files(
        self, sequences: Sequence[Sequence[str | Path | bytes]], *, strict: bool = False
    ) -> list[Prediction]:
        """The prediction for each sequence of image files, or of their contents.

        Files are brought into the model's form as `preprocessing` says.
        strict: a warning is an error.

        Raises:
            ImageError: a file is missing or cannot be decoded.
            InputError: a sequence has no images, or, with `strict`, there is a warning.
        """
        prepared = [self.prepare(sequence) for sequence in sequences]
        warnings = [self.warnings(images) for images in prepared]
        if strict:
            refuse([warning for of_one in warnings for warning in of_one])
        found = self.predict_pixels([pixels_of(images) for images in prepared])
        return [
            Prediction(running[-1], running, of_one)
            for running, of_one in zip(found, warnings, strict=True)
        ]

    def prepare(self, files: Sequence[str | Path | bytes]) -> list[Prepared]:
        """A sequence's image files, or their contents, as the model takes them.

        Raises:
            ImageError: a file is missing or cannot be decoded.
            InputError: there is none.
        """
        if not files:
            raise InputError("a sequence must have one image at least, got none")
        prepared = []
        for position, file in enumerate(files):
            name = f"image {position}" if isinstance(file, bytes) else str(file)
            source = file if isinstance(file, bytes) else Path(file)
            prepared.append(self.preprocessing.read(source, name))
        return prepared

    def warnings(self, images: Sequence[Prepared]) -> list[InputWarning]:
        """Why the prediction for a sequence may be wrong, in the order of its images."""
        found = []
        unlike = {warning.position: warning for warning in self.check(pixels_of(images))}
        for position, image in enumerate(images):
            own = [replace(warning, position=position) for warning in image.warnings]
            if not own and position in unlike:
                own = [replace(unlike[position], file=image.name)]
            found += own
        return [*found, unlike[None]] if None in unlike else found

    def check(self, pixels: NDArray[np.uint8]) -> list[InputWarning]:
        """Whether a sequence, uint8 `(T, C, H, W)`, is unlike those of training."""
        info = self.predictor.info
        found = [] if info.pixels is None else info.pixels.check(pixels)
        if len(pixels) > info.longest:
            message = (
                f"the sequence has {len(pixels)} images, more than any of training: "
                f"{info.longest}; its prediction may be wrong"
            )
            found.append(InputWarning("too_long", message))
        return found

    def predict_pixels(self, sequences: Sequence[NDArray[np.uint8]]) -> list[list[float]]:
        """The prediction after each image of sequences of any lengths, uint8 `(T, C, H, W)` each.

        Sequences of about equal lengths are predicted together, as many as memory allows.
        """
        import numpy as np

        from crnn_search.models.predictor import batches

        found: list[list[float]] = [[] for _ in sequences]
        for rows in batches(np.array(list(map(len, sequences)), np.int64), self.predictor.shape):
            images, lengths = _padded([sequences[row] for row in rows])
            running = self.predictor.running(images, lengths)
            for row, values, length in zip(rows, running, lengths.tolist(), strict=True):
                found[row] = values[:length].tolist()
        return found

    def _inputs(
        self, images: ArrayLike, lengths: ArrayLike | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        pixels = _pixels(images, self.predictor.shape)
        return pixels, _lengths(lengths, len(pixels), pixels.shape[1])


def pixels_of(images: Sequence[Prepared]) -> NDArray[np.uint8]:
    """A sequence of prepared images, uint8 `(T, C, H, W)`."""
    import numpy as np

    return np.stack([image.pixels for image in images])


def _padded(
    sequences: Sequence[NDArray[np.uint8]],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Sequences as a batch: images, float32 `(B, T, C, H, W)`, and lengths, `(B,)`."""
    import numpy as np

    lengths = np.array([len(pixels) for pixels in sequences], np.int64)
    images = np.zeros((len(sequences), lengths.max(), *sequences[0].shape[1:]), np.float32)
    for row, pixels in enumerate(sequences):
        images[row, : len(pixels)] = pixels
    images /= 255
    return images, lengths


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
