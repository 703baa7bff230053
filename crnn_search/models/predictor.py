"""Exported models as functions from images to sums.

Every format has one contract. Inputs: `images`, float32 `(B, T, C, H, W)` in [0, 1], and
`lengths`, int64 `(B,)`, each from 1 to `T`; any `B` and any `T` from 1 on. Output: `sum`, float32
`(B,)`. Images at or beyond a sequence's length are padding and have no effect. The shape of an
image, `(C, H, W)`, is the network's; a file states it as `image_shape` in its metadata, and is
of MNIST's images if it states none.

Shapes: `B` sequences, `T` time steps, `N` real images of a batch (no padding), `C` channels, `H`
rows, `W` columns.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from crnn_search.data.sequences import pack_order
from crnn_search.errors import InputError, ModelFileError
from crnn_search.hyperparameters import MNIST_SHAPE, ImageShape
from crnn_search.models.folder import FORMATS, ModelFolder
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


@dataclass(frozen=True)
class Predictor:
    """`images` and `lengths` to sums: the contract above. shape: of an image."""

    sums: Callable[[Tensor, Tensor], Tensor]
    shape: ImageShape = MNIST_SHAPE

    def __call__(self, images: Tensor, lengths: Tensor) -> Tensor:
        """The sums, float32 `(B,)`.

        Raises:
            InputError: images have another shape than the network's.
        """
        if images.ndim != 5 or tuple(images.shape[2:]) != self.shape:
            raise InputError(
                f"images must have the shape {shape_text(self.shape)}, got {tuple(images.shape)}"
            )
        return self.sums(images, lengths)


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


def running_sums(predictor: Predictor, images: Tensor) -> list[float]:
    """The predicted sum after each of a sequence's images, uint8 `(T, C, H, W)`.

    Raises:
        InputError: images have another shape than the network's.
    """
    steps = len(images)
    prefixes = (images.float() / 255).expand(steps, *images.shape)
    sums: list[float] = predictor(prefixes, torch.arange(1, steps + 1)).tolist()
    return sums


def torch_predictor(network: CRNN) -> Predictor:
    """A network in evaluation mode as a predictor."""

    def predict(images: Tensor, lengths: Tensor) -> Tensor:
        packed, batch_sizes, order = _pack(images, lengths)
        with torch.no_grad(), warnings.catch_warnings():
            # PyTorch warns, once a process, that it pads for an even kernel.
            warnings.filterwarnings("ignore", "Using padding='same' with even kernel", UserWarning)
            sums = network(packed, batch_sizes)
        return torch.empty_like(sums).index_copy(0, order, sums)

    return Predictor(predict, network.shape)


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
    network, _, _ = checkpoint.load_model(path)
    return torch_predictor(network)


def _load_onnx(path: Path) -> Predictor:
    try:
        session = onnx_session(str(path))
        values = (*session.get_inputs(), *session.get_outputs())
        got = [f"{value.name} {value.type}" for value in values]
        metadata = session.get_modelmeta().custom_metadata_map
        shape = _image_shape(metadata)
    except Exception as error:  # onnxruntime's errors have no nearer base
        raise ModelFileError(
            f"{path} is truncated, altered or not an ONNX file: {first_line(error)}"
        ) from error
    if got != _ONNX_VALUES:
        raise _foreign(
            path, f"its inputs and outputs must be {', '.join(_ONNX_VALUES)}, got {', '.join(got)}"
        )

    def predict(images: Tensor, lengths: Tensor) -> Tensor:
        try:
            sums = run_onnx(session, images, lengths)
        except Exception as error:
            shape = tuple(images.shape)
            raise _foreign(path, f"it fails on images {shape}: {first_line(error)}") from error
        if sums.shape != lengths.shape:
            raise _foreign(
                path, f"its sums must have the shape {tuple(lengths.shape)}, got {sums.shape}"
            )
        return torch.from_numpy(sums)

    sums, expected = predict(*example(shape)), metadata.get(EXAMPLE_SUMS)
    if expected is not None and not _equal(sums, expected):
        raise ModelFileError(f"{path} was altered: its sums of an example are others")
    return Predictor(predict, shape)


def _image_shape(metadata: Mapping[str, str]) -> ImageShape:
    """The shape of the images of an ONNX file. Raises ValueError if it states none that is."""
    text = metadata.get(IMAGE_SHAPE)
    return ImageShape.from_json(json.loads(text)) if text is not None else MNIST_SHAPE


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
    """The output of a session, which need not be that of the contract."""
    (sums,) = session.run(["sum"], {"images": images.numpy(), "lengths": lengths.numpy()})
    result: NDArray[np.float32] = sums
    return result


def example(shape: ImageShape) -> tuple[Tensor, Tensor]:
    """Images and lengths on which an ONNX file is tried when it is read: waves, not random."""
    y, x = torch.meshgrid(
        torch.linspace(0, 3, shape.rows), torch.linspace(0, 3, shape.columns), indexing="ij"
    )
    number = torch.arange(12.0).reshape(4, 3, 1, 1, 1) + torch.arange(shape.channels)[:, None, None]
    images = 0.5 + 0.5 * torch.sin((1 + number) * x + (12 - number) * y * x)
    return images, torch.tensor([3, 1, 2, 3])


def _equal(sums: Tensor, expected: str) -> bool:
    try:
        values = torch.tensor(json.loads(expected), dtype=torch.float32)
    except (ValueError, TypeError, RuntimeError):
        return False
    return values.shape == sums.shape and torch.allclose(
        sums, values, rtol=1e-3, atol=1e-3, equal_nan=True
    )


def _foreign(path: Path, reason: str) -> ModelFileError:
    return ModelFileError(f"{path} is not a model of crnn-search: {reason}")


_ONNX_VALUES = ["images tensor(float)", "lengths tensor(int64)", "sum tensor(float)"]
"""Inputs and output of the contract, as onnxruntime names them."""

EXAMPLE_SUMS = "example_sums"
"""The property of an ONNX file with the sums of `example` as JSON: tells whether it was altered."""

IMAGE_SHAPE = "image_shape"
"""The property of an ONNX file with the shape of an image as JSON."""

_READERS: dict[str, Callable[[Path], Predictor]] = {
    "safetensors": _load_safetensors,
    "onnx": _load_onnx,
}
