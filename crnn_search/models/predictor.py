"""Exported models read again, as functions from images to sums, and images for them.

Every format has one contract. Inputs: `images`, float32 `(B, T, 1, 28, 28)` in [0, 1], and
`lengths`, int64 `(B,)`, each from 1 to `T`; any `B` and any `T` from 1 on. Output: `sum`, float32
`(B,)`. Images at or beyond a sequence's length have no effect, whatever they hold.

Read a `.pt2` only from whom you trust: it is a program. Ours hold no pickles, and `load` refuses
one that does; but `torch.export.load` also evaluates the file's shape expressions as Python
(SymPy's `sympify`, tried in PyTorch 2.15), so no check makes a stranger's file safe.

Shapes: `B` sequences, `T` time steps.
"""

from __future__ import annotations

import contextlib
import json
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image
from torch import Tensor, nn

from crnn_search.errors import ImageError, ModelFileError
from crnn_search.hyperparameters import IMAGE_SIZE
from crnn_search.storage.run_folder import RunPaths
from crnn_search.training import checkpoint

FORMATS = ("safetensors", "onnx", "pt2")
"""The formats, in the order in which `load` prefers them."""


_PT2_RECORDS = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|\.data/\w+|models/model\.json"
    r"|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/model_constants_config\.json)"
)
"""All that our `.pt2` archives hold. Others may hold pickles and compiled libraries."""


Predictor = Callable[[Tensor, Tensor], Tensor]
"""`images` and `lengths` to sums: the contract above."""


def load(path: Path) -> Predictor:
    """The model in a file, a model's folder or a run's folder, as a function, on the CPU.

    Of a folder's files the first of `FORMATS` is taken. A `.pt2` is a program: see above.

    Raises:
        ModelFileError: nothing is there, or it is no model of this package.
    """
    if path.is_dir():
        return load(_model_file(path))
    if not path.exists():
        raise ModelFileError(
            f"{path} does not exist; give a model's file, or its or a run's folder"
        )
    reader = _READERS.get(path.suffix.removeprefix("."))
    if reader is None:
        raise ModelFileError(f"a model's file must end in .{', .'.join(FORMATS)}, got {path}")
    return reader(path)


def running_sums(predictor: Predictor, images: Tensor) -> list[float]:
    """The predicted sum after each of a sequence's images, uint8 `(T, 28, 28)`."""
    steps = len(images)
    pixels = images.unsqueeze(1).float() / 255
    prefixes = pixels.expand(steps, *pixels.shape)
    sums: list[float] = predictor(prefixes, torch.arange(1, steps + 1)).tolist()
    return sums


def read_image(path: Path) -> Tensor:
    """An image file of any size and mode as MNIST has them: white on black, uint8 `(28, 28)`.

    What is transparent becomes white; an image that is not square is squeezed. If the outermost
    pixels are bright on average, the image is black on white and is inverted.

    Raises:
        ImageError: the file is missing or cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            grey = _greyscale(image).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)
    except FileNotFoundError as error:
        raise ImageError(f"{path} does not exist; give an image file such as a PNG") from error
    # Pillow's decoders raise any of these for a file that is no image, cut off or too large.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(
            f"{path} cannot be decoded: {error}; give an image file such as a PNG"
        ) from error
    pixels = torch.from_numpy(np.array(grey))
    inner = pixels[1:-1, 1:-1]
    border = (pixels.sum() - inner.sum()) / (pixels.numel() - inner.numel())
    return 255 - pixels if border > 127 else pixels


def _greyscale(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        # Pillow would cut values of more than 8 bits off at 255: spread their own range instead.
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        values -= values.min()
        return Image.fromarray((values * (255 / (values.max() or 1))).round().astype(np.uint8))
    layers = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("L")


def model_files(folder: ModelPaths) -> dict[str, Path]:
    """The file of each format, in the order of `FORMATS`."""
    return {"safetensors": folder.safetensors, "onnx": folder.onnx, "pt2": folder.pt2}


def _model_file(folder: Path) -> Path:
    for root in (folder, RunPaths(folder).model):
        for path in model_files(ModelPaths(root)).values():
            if path.is_file():
                return path
    names = ", ".join(path.name for path in model_files(ModelPaths(folder)).values())
    raise ModelFileError(f"{folder} has no model: none of {names} is in it or in its folder model")


def _load_safetensors(path: Path) -> Predictor:
    return torch_predictor(checkpoint.load_model(path)[0])


def _load_onnx(path: Path) -> Predictor:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what goes wrong is raised and need not be printed too
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no nearer base
        raise _broken(path, "ONNX", error) from error
    inputs = [f"{value.name} {value.type}" for value in session.get_inputs()]
    outputs = [value.name for value in session.get_outputs()]
    _check_signature(
        path, [*inputs, *outputs], ["images tensor(float)", "lengths tensor(int64)", "sum"]
    )

    def predict(images: Tensor, lengths: Tensor) -> Tensor:
        (sums,) = session.run(["sum"], {"images": images.numpy(), "lengths": lengths.numpy()})
        return torch.from_numpy(sums)

    return predict


def _load_pt2(path: Path) -> Predictor:
    try:
        _refuse_pickles(path)
        program = torch.export.load(path)
    except ModelFileError:
        raise
    except Exception as error:  # what it raises for a broken archive is not documented
        raise _broken(path, "pt2", error) from error
    _check_signature(path, list(program.graph_signature.user_inputs), ["images", "lengths"])
    return torch_predictor(program.module())


def _refuse_pickles(path: Path) -> None:
    """`torch.export.load` unpickles, and loads compiled code, wherever an archive asks it to."""
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            plain = _PT2_RECORDS.fullmatch(record.filename) or record.file_size == 0
            if record.filename.endswith("/model_weights_config.json"):
                weights = json.loads(archive.read(record))["config"].values()
                plain = not any(weight["use_pickle"] for weight in weights)
            if not plain:
                raise ModelFileError(
                    f"{path} is no model of crnn-search: {record.filename} in it may be a pickle "
                    "or compiled code, and ours hold neither"
                )


def torch_predictor(module: nn.Module) -> Predictor:
    """A PyTorch module as a predictor."""

    def predict(images: Tensor, lengths: Tensor) -> Tensor:
        with torch.no_grad(), quiet():
            sums: Tensor = module(images, lengths)
            return sums

    return predict


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of PyTorch that nobody can act on."""
    with warnings.catch_warnings():
        # PyTorch tells of the padding that an even kernel needs, once a process.
        warnings.filterwarnings("ignore", "Using padding='same' with even kernel", UserWarning)
        # `register_gru_while_loop_decomposition` calls what PyTorch is about to remove.
        warnings.filterwarnings("ignore", "_check_is_size will be removed", FutureWarning)
        yield


def _broken(path: Path, kind: str, error: Exception) -> ModelFileError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ModelFileError(f"{path} is truncated, altered or no {kind} file: {reason}")


def _check_signature(path: Path, got: list[str], valid: list[str]) -> None:
    if got != valid:
        raise ModelFileError(
            f"{path} is no model of crnn-search: its inputs and outputs must be "
            f"{', '.join(valid)}, got {', '.join(got)}"
        )


_READERS: dict[str, Callable[[Path], Predictor]] = {
    "safetensors": _load_safetensors,
    "onnx": _load_onnx,
    "pt2": _load_pt2,
}


@dataclass(frozen=True)
class ModelPaths:
    """A folder with an exported model."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def safetensors(self) -> Path:
        return self.root / "model.safetensors"

    @property
    def onnx(self) -> Path:
        return self.root / "model.onnx"

    @property
    def pt2(self) -> Path:
        return self.root / "model.pt2"

    @property
    def readme(self) -> Path:
        return self.root / "README.md"
