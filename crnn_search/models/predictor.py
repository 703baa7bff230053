"""Exported models as functions from images to predictions.

Every format has one contract. Inputs: `images`, float32 `(B, T, C, H, W)` in [0, 1], and
`lengths`, int64 `(B,)`, each from 1 to `T`; any `B` and any `T` from 1 on. Output: `prediction`, or
`sum` for MNIST's sums, float32 `(B,)`, in the target's unit. Images at or beyond a sequence's
length are padding and have no effect. The shape of an image, `(C, H, W)`, is that of the task,
which a file states in its metadata as `TaskInfo.to_dict` gives it.

Shapes: `B` sequences, `T` time steps, `N` real images of a batch (no padding), `C` channels, `H`
rows, `W` columns.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from crnn_search.data.sequences import pack_order
from crnn_search.data.task_info import TaskInfo
from crnn_search.errors import InputError, ModelFileError
from crnn_search.hyperparameters import ImageShape
from crnn_search.models.folder import FORMATS, ModelFolder
from crnn_search.storage.checks import ALTERED
from crnn_search.storage.regular_file import unreadable
from crnn_search.storage.run_folder import RunFolder
from crnn_search.text import first_line
from crnn_search.training import checkpoint
from crnn_search.training.model import CRNN

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported
import onnxruntime

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


CHUNK_PIXELS = 2_000_000
"""Pixels of images that are encoded at once: with 32 channels of float32 a quarter of a GB."""

MAX_DIFFERENCE = 1e-3
"""Largest difference in a prediction that arithmetic may make, in the target's standard deviations,
or in MNIST's sums: of their task `scale` is 1."""


@dataclass(frozen=True)
class Predictor:
    """`images` and `lengths` to predictions: the contract above.

    running: float images of one sequence, `(T, C, H, W)`, to the prediction after each of them,
    `(T,)`; None: each prefix of the sequence has to be predicted.
    """

    predictions: Callable[[Tensor, Tensor], Tensor]
    task: TaskInfo
    running: Callable[[Tensor], Tensor] | None = None

    @property
    def shape(self) -> ImageShape:
        """The shape of an image."""
        return self.task.shape

    def __call__(self, images: Tensor, lengths: Tensor) -> Tensor:
        """The predictions, float32 `(B,)`.

        Raises:
            InputError: images have another shape than the network's.
        """
        self.check(images)
        return self.predictions(images, lengths)

    def check(self, images: Tensor) -> None:
        """Check the shape of images, `(B, T, C, H, W)`. Raises as a call."""
        if images.ndim != 5 or tuple(images.shape[2:]) != self.shape:
            raise InputError(
                f"images must have the shape {shape_text(self.shape)}, got {tuple(images.shape)}"
            )


def output_name(task: TaskInfo) -> str:
    """The name of a model's output."""
    return "sum" if task.sums else "prediction"


def at_once(shape: ImageShape, steps: int = 1) -> int:
    """How many sequences of so many images are predicted at once, so that memory stays bounded."""
    return max(1, CHUNK_PIXELS // (steps * shape.rows * shape.columns))


def tolerance(task: TaskInfo, predictions: Tensor) -> float:
    """The largest difference to these predictions that arithmetic may make, in the target's unit.

    `MAX_DIFFERENCE`, but not less than what float32 resolves where the target is large and varies
    little.
    """
    resolution = (
        4 * torch.finfo(torch.float32).eps * float(predictions.nan_to_num(0, 0, 0).abs().max())
    )
    return max(MAX_DIFFERENCE * task.scale, resolution)


def shape_text(shape: tuple[int, ...]) -> str:
    """The shape of sequences of images, for messages: `(B, T, 1, 28, 28)`."""
    return f"(B, T, {', '.join(map(str, shape))})"


def load(path: Path) -> Predictor:
    """The model in a file, a model's folder or a run's folder, as a function, on the CPU.

    Of a folder's files the first of `FORMATS` is taken.

    Raises:
        ModelFileError: the file is missing or is not a model of this package.
    """
    if path.is_dir():
        return load(_model_file(path))
    if not path.exists():
        raise ModelFileError(
            f"{path} does not exist; give a model's file, or its or a run's folder"
        )
    if reason := unreadable(path):
        raise ModelFileError(f"{path} cannot be read: {reason}")
    reader = _READERS.get(path.suffix.removeprefix("."))
    if reader is None:
        raise ModelFileError(f"a model's file must end in .{', .'.join(FORMATS)}, got {path}")
    return reader(path)


def running_predictions(predictor: Predictor, images: Tensor) -> Iterator[float]:
    """The prediction after each of a sequence's images, uint8 `(T, C, H, W)`.

    Raises:
        InputError: images have another shape than the network's.
    """
    pixels = images.float() / 255
    predictor.check(pixels[None])
    if predictor.running is not None:
        yield from predictor.running(pixels).tolist()
        return
    for lengths in torch.arange(1, len(images) + 1).split(at_once(predictor.shape, len(images))):
        prefixes = pixels[: lengths[-1]].expand(len(lengths), -1, *pixels.shape[1:])
        yield from predictor(prefixes, lengths).tolist()


def torch_predictor(network: CRNN, task: TaskInfo) -> Predictor:
    """A network in evaluation mode as a predictor. It encodes some images at a time."""
    images_at_once = at_once(task.shape)

    def encode(images: Tensor) -> Tensor:
        with warnings.catch_warnings():
            # PyTorch warns, once a process, that it pads for an even kernel.
            warnings.filterwarnings("ignore", "Using padding='same' with even kernel", UserWarning)
            return torch.cat([network.encode(part) for part in images.split(images_at_once)])

    @torch.no_grad()
    def predict(images: Tensor, lengths: Tensor) -> Tensor:
        packed, batch_sizes, order = _pack(images, lengths)
        predictions = network.decode(encode(packed), batch_sizes)
        return torch.empty_like(predictions).index_copy(0, order, predictions)

    @torch.no_grad()
    def running(images: Tensor) -> Tensor:
        return network.decode_running(encode(images), torch.ones(len(images), dtype=torch.int64))

    return Predictor(predict, task, running)


def _pack(images: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Padded images as a packed batch, see `data.sequences`.

    Returns the real images, `(N, C, H, W)`, the batch sizes, `(T,)`, and the index of each sequence
    of the packed batch in the padded one, `(B,)`.
    """
    order, active = pack_order(lengths)
    return images[order, : len(active)].transpose(0, 1)[active], active.sum(1), order


def _model_file(folder: Path) -> Path:
    """The preferred model file of a model's or a run's folder."""
    for place in (ModelFolder(folder), ModelFolder(RunFolder(folder).model)):
        for name in FORMATS:
            if place.model(name).is_file():
                return place.model(name)
    names = ", ".join(ModelFolder(folder).model(name).name for name in FORMATS)
    raise ModelFileError(f"{folder} has no model: none of {names} is in it or in its folder model")


def _load_safetensors(path: Path) -> Predictor:
    network, _, info = checkpoint.load_model(path)
    return torch_predictor(network, TaskInfo.from_dict(info["task"]))


def _load_onnx(path: Path) -> Predictor:
    try:
        session = onnx_session(str(path))
        values = (*session.get_inputs(), *session.get_outputs())
        got = [f"{value.name} {value.type}" for value in values]
        metadata = session.get_modelmeta().custom_metadata_map
    except Exception as error:  # onnxruntime's errors have no nearer base
        raise ModelFileError(
            f"{path} is truncated, altered or not an ONNX file: {first_line(error)}"
        ) from error
    task = _task(path, metadata)
    valid = [*_ONNX_INPUTS, f"{output_name(task)} tensor(float)"]
    if got != valid:
        raise _foreign(
            path, f"its inputs and outputs must be {', '.join(valid)}, got {', '.join(got)}"
        )

    def predict(images: Tensor, lengths: Tensor) -> Tensor:
        try:
            predictions = run_onnx(session, images, lengths)
        except Exception as error:
            shape = tuple(images.shape)
            raise _foreign(path, f"it fails on images {shape}: {first_line(error)}") from error
        if predictions.shape != lengths.shape:
            shapes = f"{tuple(lengths.shape)}, got {predictions.shape}"
            raise _foreign(path, f"its predictions must have the shape {shapes}")
        return torch.from_numpy(predictions)

    if not _equal(predict(*example(task.shape)), metadata.get(EXAMPLE_PREDICTIONS, ""), task):
        raise ModelFileError(f"{path} was altered: its predictions of an example are others")
    return Predictor(predict, task)


def _task(path: Path, metadata: Mapping[str, str]) -> TaskInfo:
    """The task that an ONNX file states in its metadata."""
    if TASK not in metadata:
        raise _foreign(path, f"its metadata have no {TASK!r}")
    try:
        return TaskInfo.from_dict(json.loads(metadata[TASK]))
    except (*ALTERED, RecursionError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else first_line(error)
        raise ModelFileError(f"{path} has an invalid {TASK} in its metadata: {why}") from error


def onnx_session(model: str | bytes) -> onnxruntime.InferenceSession:
    """A session on the CPU of a model's file, by its name, or of its content."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised and need not be printed, too
    return onnxruntime.InferenceSession(
        model,
        options,
        providers=["CPUExecutionProvider"],
        enable_fallback=False,  # it would try the same again, and print so
    )


def run_onnx(
    session: onnxruntime.InferenceSession, images: Tensor, lengths: Tensor
) -> NDArray[np.float32]:
    """The one output of a session, which need not be that of the contract."""
    (output,) = session.run(None, {"images": images.numpy(), "lengths": lengths.numpy()})
    predictions: NDArray[np.float32] = output
    return predictions


def example(shape: ImageShape) -> tuple[Tensor, Tensor]:
    """Images and lengths on which an ONNX file is tried when it is read: waves, not random."""
    y, x = torch.meshgrid(
        torch.linspace(0, 3, shape.rows), torch.linspace(0, 3, shape.columns), indexing="ij"
    )
    number = torch.arange(12.0).reshape(4, 3, 1, 1, 1) + torch.arange(shape.channels)[:, None, None]
    images = 0.5 + 0.5 * torch.sin((1 + number) * x + (12 - number) * y * x)
    return images, torch.tensor([3, 1, 2, 3])


def _equal(predictions: Tensor, expected: str, task: TaskInfo) -> bool:
    """Whether predictions are what JSON states, up to arithmetic on other processors."""
    try:
        values = torch.tensor(json.loads(expected), dtype=torch.float64)
    except (ValueError, TypeError, RuntimeError):
        return False
    return values.shape == predictions.shape and torch.allclose(
        predictions.double() - task.center,
        values - task.center,
        rtol=MAX_DIFFERENCE,
        atol=tolerance(task, predictions),
        equal_nan=True,
    )


def _foreign(path: Path, reason: str) -> ModelFileError:
    return ModelFileError(f"{path} is not a model of crnn-search: {reason}")


_ONNX_INPUTS = ("images tensor(float)", "lengths tensor(int64)")
"""Inputs of the contract, as onnxruntime names them."""

EXAMPLE_PREDICTIONS = "example_predictions"
"""The property of an ONNX file with the predictions of `example` as JSON: tells whether it was
altered."""

TASK = "task"
"""The property of an ONNX file with the task as JSON."""

_READERS: dict[str, Callable[[Path], Predictor]] = {
    "safetensors": _load_safetensors,
    "onnx": _load_onnx,
}
