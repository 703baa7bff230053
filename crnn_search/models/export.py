"""Model files: write them in three formats, each checked against PyTorch.

The contract of them all stands in `predictor`.

- `safetensors`: weights and configuration, no code; read with this package.
- `onnx`: a small graph in one self-contained file, no code; read with any ONNX runtime.
- `pt2`: a `torch.export` program for the CPU; read with PyTorch alone.

Shapes: `B` sequences, `T` time steps.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

import crnn_search
from crnn_search.data.sequences import Digits, SequenceTable, testing_table
from crnn_search.errors import InputError, RunError
from crnn_search.hyperparameters import IMAGE_SIZE, TrialConfig
from crnn_search.models.predictor import (
    FORMATS,
    ModelPaths,
    Predictor,
    load,
    model_files,
    quiet,
    torch_predictor,
)
from crnn_search.storage.files import read_json, write_atomically, write_json
from crnn_search.storage.run_folder import RunPaths
from crnn_search.training import checkpoint
from crnn_search.training.checkpoint import load_model
from crnn_search.training.model import CRNN

MAX_DIFFERENCE = 1e-3
"""Largest difference in a sum between an exported file and the PyTorch model."""


CHUNK = 100
"""Sequences compared at once."""


OPSET, IR_VERSION = 17, 8
"""ONNX of 2022: it has every operator used here, and all runtimes since read it."""


def export(
    model: CRNN,
    config: TrialConfig,
    info: dict[str, Any],
    folder: ModelPaths,
    formats: Sequence[str],
    images: Tensor,
    table: SequenceTable,
) -> dict[str, float]:
    """Write a model's files, `config.json` and `README.md` into `folder`: all of them or none.

    info: whatever else JSON holds; `max_digits` in it is named in the files.
    images: uint8 `(I, 28, 28)`. table: the sequences that each file is checked on, at least one.

    Returns for each format the largest difference in a sum to the PyTorch model. Files that an
    earlier export left in other formats stay.

    Raises:
        InputError: `formats` is empty or has an unknown name.
        RunError: a file's sums differ from the model's by more than `MAX_DIFFERENCE`.
    """
    if not formats or not set(formats) <= set(FORMATS):
        raise InputError(
            f"formats must be one or more of {', '.join(FORMATS)}, got {list(formats)}"
        )
    model = _plain_copy(model)
    expected = _sums(torch_predictor(model), images, table)
    differences = {}
    with _staging(folder) as staged:
        write_json(staged.config, {"config": config.to_dict(), "info": info})
        for name in FORMATS:
            if name in formats:
                path = model_files(staged)[name]
                _WRITERS[name](path, model, config, info)
                differences[name] = _difference(name, _sums(load(path), images, table), expected)
        write_atomically(staged.readme, _readme(config, info))
    return differences


@contextlib.contextmanager
def _staging(folder: ModelPaths) -> Iterator[ModelPaths]:
    """A temporary folder whose files move into `folder` at the end, if nothing is raised."""
    folder.root.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder.root, prefix=".export-") as temporary:
            yield ModelPaths(Path(temporary))
            for path in Path(temporary).iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                path.replace(folder.root / path.name)
    finally:
        with contextlib.suppress(OSError):  # there are files in it
            folder.root.rmdir()


def _plain_copy(model: CRNN) -> CRNN:
    """The model as the formats store it: float32, contiguous, on the CPU."""
    plain = copy.deepcopy(model).eval().requires_grad_(False).float().cpu()
    return plain.to(memory_format=torch.contiguous_format)


def _sums(predictor: Predictor, images: Tensor, table: SequenceTable) -> Tensor:
    """The predicted sums, `(S,)`. What pads a sequence is image 0, not blank."""
    sums = []
    for rows in torch.arange(len(table)).split(CHUNK):
        pixels = images[table.indices[rows].long()].cpu().unsqueeze(2).float() / 255
        sums.append(predictor(pixels, table.lengths[rows]))
    return torch.cat(sums)


def _difference(name: str, sums: Tensor, expected: Tensor) -> float:
    largest = (sums - expected).abs().max().item()
    if not largest <= MAX_DIFFERENCE:  # written so that NaN is refused
        raise RunError(
            f"the {name} file's sums differ from the PyTorch model's by up to {largest:.3g}, more "
            f"than {MAX_DIFFERENCE:g}; no file was written"
        )
    return largest


def _write_onnx(path: Path, model: CRNN, config: TrialConfig, info: dict[str, Any]) -> None:
    network = onnx.parser.parse_model(
        f'<ir_version: {IR_VERSION}, opset_import: ["": {OPSET}], producer_name: "crnn-search">'
        "crnn (float[B, T, 1, 28, 28] images, int64[B] lengths) => (float[B] sum) {"
        + "\n".join(_onnx_nodes(model))
        + "}"
    )
    for name, weights in _onnx_weights(model).items():
        network.graph.initializer.append(numpy_helper.from_array(weights.numpy(), name))
    metadata = {
        "config": json.dumps(config.to_dict()),
        "crnn_search_version": crnn_search.__version__,
    }
    if "max_digits" in info:
        metadata["max_digits"] = str(info["max_digits"])
    onnx.helper.set_model_props(network, metadata)
    onnx.checker.check_model(network, full_check=True)
    onnx.save_model(network, path)


def _onnx_nodes(model: CRNN) -> list[str]:
    """The network in ONNX's own text form; weights are known by name.

    A GRU that is given the lengths stops each sequence at its own: nothing beyond is ever read.
    """
    x, nodes = "pixels", ["pixels = Reshape (images, image_shape)"]
    for index, layer in enumerate(model.encoder):
        nodes.append(_onnx_layer(f"encoder_{index}", layer, x))
        x = f"encoder_{index}"
    nodes += [
        "batch_and_steps = Shape <start = 0, end = 2> (images)",
        "features_shape = Concat <axis = 0> (batch_and_steps, feature_size)",
        f"batch_first = Reshape ({x}, features_shape)",
        "features = Transpose <perm = [1, 0, 2]> (batch_first)",
        f"lengths_32 = Cast <to = {TensorProto.INT32}> (lengths)",
    ]
    x = "features"
    for index, gru in enumerate(model.grus):
        name, inputs = f"gru_{index}", f"{x}, W_{index}, R_{index}, B_{index}, lengths_32"
        # With linear_before_reset the second bias lies inside the reset gate, as in PyTorch.
        kind = f"GRU <hidden_size = {gru.hidden_size}, linear_before_reset = 1>"
        nodes.append(f"{name}_all, {name}_last = {kind} ({inputs})")
        nodes.append(f"{name} = Squeeze ({name}_all, axis_1)")
        x = name
    nodes.append(f"state = Squeeze ({x}_last, axis_0)")
    nodes.append(_onnx_layer("output", model.output, "state"))
    return [*nodes, "sum = Squeeze (output, axis_1)"]


def _onnx_layer(name: str, layer: nn.Module, x: str) -> str:
    match layer:
        case nn.Conv2d():
            operator = f"Conv <pads = {_pads(layer)}>"
        case nn.BatchNorm2d():
            operator = f"BatchNormalization <epsilon = {layer.eps}>"
        case nn.MaxPool2d():
            size = [layer.kernel_size] * 2
            operator = f"MaxPool <kernel_shape = {size}, strides = {size}>"
        case nn.Linear():
            operator = "Gemm <transB = 1>"
        case _:  # Flatten and ReLU
            operator = type(layer).__name__.capitalize()
    weights = [f"{name}_{key}" for key in layer.state_dict() if key != "num_batches_tracked"]
    return f"{name} = {operator} ({', '.join([x, *weights])})"


def _pads(layer: nn.Conv2d) -> list[int]:
    """Top, left, bottom, right. PyTorch puts an even kernel's odd pixel at the bottom and right."""
    total = layer.kernel_size[0] - 1 if layer.padding == "same" else 0
    return [total // 2] * 2 + [total - total // 2] * 2


def _onnx_weights(model: CRNN) -> dict[str, Tensor]:
    weights = {
        name.replace(".", "_"): value
        for name, value in model.state_dict().items()
        if not name.startswith("grus.") and not name.endswith("num_batches_tracked")
    }
    for index, gru in enumerate(model.grus):
        state = {name: _onnx_gates(value) for name, value in gru.state_dict().items()}
        weights[f"W_{index}"], weights[f"R_{index}"] = state["weight_ih_l0"], state["weight_hh_l0"]
        weights[f"B_{index}"] = torch.cat([state["bias_ih_l0"], state["bias_hh_l0"]], dim=1)
    return weights | {
        "image_shape": torch.tensor([-1, 1, IMAGE_SIZE, IMAGE_SIZE]),
        "feature_size": torch.tensor([model.feature_size]),
        "axis_0": torch.tensor([0]),
        "axis_1": torch.tensor([1]),
    }


def _onnx_gates(weights: Tensor) -> Tensor:
    """PyTorch's gates reset, update, new as ONNX's update, reset, new; an axis for directions."""
    reset, update, new = weights.chunk(3)
    return torch.cat([update, reset, new]).unsqueeze(0)


def _write_pt2(path: Path, model: CRNN, config: TrialConfig, info: dict[str, Any]) -> None:
    # PyTorch's usual rule for a GRU's shapes unrolls the GRU, which would fix T; with this one
    # the graph keeps `aten.gru` whole, for any T.
    from torch.export._patches import register_gru_while_loop_decomposition

    example = (torch.zeros(2, 3, 1, IMAGE_SIZE, IMAGE_SIZE), torch.tensor([3, 2]))
    batch, steps = torch.export.Dim("B"), torch.export.Dim("T")
    shapes = {"images": {0: batch, 1: steps}, "lengths": {0: batch}}
    with quiet(), register_gru_while_loop_decomposition():
        program = torch.export.export(_Program(model), example, dynamic_shapes=shapes)
    program.example_inputs = None  # they alone would be stored as a pickle
    torch.export.save(program, path)


class _Program(nn.Module):
    """The network without packed sequences, whose Python cannot be exported."""

    def __init__(self, crnn: CRNN) -> None:
        super().__init__()
        self.crnn = crnn

    def forward(self, images: Tensor, lengths: Tensor) -> Tensor:
        """See the module. GRUs look back only, so no state up to a length knows what follows."""
        features = self.crnn.encode(images.flatten(0, 1))
        features = features.unflatten(0, images.shape[:2]).transpose(0, 1)
        for gru in self.crnn.grus:
            assert isinstance(gru, nn.GRU)
            start = features.new_zeros(1, lengths.shape[0], gru.hidden_size)
            weights: list[Tensor] = [*gru.all_weights[0]]
            features, _ = torch.gru(features, start, weights, True, 1, 0.0, False, False, False)
        last = features[lengths - 1, torch.arange(lengths.shape[0])]
        sums: Tensor = self.crnn.output(last).squeeze(1)
        return sums


_WRITERS: dict[str, Callable[[Path, CRNN, TrialConfig, dict[str, Any]], None]] = {
    "safetensors": checkpoint.save_model,
    "onnx": _write_onnx,
    "pt2": _write_pt2,
}


def _readme(config: TrialConfig, info: dict[str, Any]) -> str:
    return _README.format(
        version=crnn_search.__version__,
        lengths=f"1 to {info['max_digits']} images" if "max_digits" in info else "images",
        convolutions=", ".join(map(str, config.model.conv_channels)),
        grus=", ".join(map(str, config.model.gru_sizes)),
    )


_README = """# A network that adds up handwritten digits

It is given a sequence of images of one digit each and predicts the digits' sum: convolutions
({convolutions} channels) of every image, GRUs ({grus} wide) over the sequence, one linear output.
It was made by crnn-search {version} for sequences of {lengths}.

## Contract

- `images`: float32 (B, T, 1, 28, 28), white on black as in MNIST, pixels from 0 to 1. Any B and T
  will do; how good the sums of longer sequences are is unknown.
- `lengths`: int64 (B,), the images of each sequence, 1 to T. What lies beyond has no effect.
- `sum`: float32 (B,), the predicted sums. Round them for whole numbers.

## Use

With `pip install onnxruntime` and nothing else:

```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
images = np.zeros((2, 5, 1, 28, 28), np.float32)  # two sequences; put your digits here
lengths = np.array([5, 3], np.int64)  # one of five images, one of three
(sums,) = session.run(["sum"], {{"images": images, "lengths": lengths}})
print(sums)
```

## Files

Those of the three models that were asked for; all give the same sums.

- `model.safetensors`: weights and configuration, no code; read with crnn-search.
- `model.onnx`: the whole network, no code; read with any ONNX runtime.
- `model.pt2`: the whole network, for PyTorch on a CPU:
  `torch.export.load("model.pt2").module()(images, lengths)`. It is a program: read it only from
  whom you trust.
- `config.json`: the hyperparameters (`config`) and what else is known of the network (`info`).
"""


EXPORT_CHECK_SEQUENCES = 1000


def export_winner(paths: RunPaths, formats: tuple[str, ...], digits: Digits) -> dict[str, float]:
    """Write the winner of a run, of its first seed, to the run's `model/` folder.

    Returns the largest difference to PyTorch's sums of each format.
    """
    entry = read_json(paths.retrained)["winner"][0]
    model, config, info = load_model(paths.root / entry["file"])
    table = testing_table(digits.labels, info["max_digits"])
    first = SequenceTable(*(t[:EXPORT_CHECK_SEQUENCES] for t in vars(table).values()))
    return export(model, config, info, ModelPaths(paths.model), formats, digits.images, first)
