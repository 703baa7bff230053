"""A network as an ONNX graph, in ONNX's own text form: few operators, no code.

Shapes: `B` sequences, `T` time steps, `N` = `B·T` images, `D` features, `H` width of a GRU.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from crnn_search.data.task_info import TaskInfo
from crnn_search.models.predictor import (
    EXAMPLE_PREDICTIONS,
    TASK,
    example,
    onnx_session,
    output_name,
    run_onnx,
    shape_text,
)
from crnn_search.training.model import CRNN

OPSET, IR_VERSION = 17, 8
"""ONNX of 2022: it has every operator used here, and all later runtimes read it."""


def build(model: CRNN, task: TaskInfo, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """The graph of a network with its weights: the contract of `predictor`.

    model: float32, on the CPU. metadata: properties of the file, beside the task and the
    predictions of an example.
    """
    shape, output = shape_text(model.shape)[1:-1], output_name(task)
    graph = onnx.parser.parse_model(
        f'<ir_version: {IR_VERSION}, opset_import: ["": {OPSET}], producer_name: "crnn-search">'
        f"crnn (float[{shape}] images, int64[B] lengths) => (float[B] {output}) {{"
        + "\n".join([*_nodes(model), f"{output} = Squeeze (output, axis_1)"])
        + "}"
    )
    for name, weights in _weights(model).items():
        graph.graph.initializer.append(numpy_helper.from_array(weights.numpy(), name))
    onnx.checker.check_model(graph, full_check=True)
    found = run_onnx(onnx_session(graph.SerializeToString()), *example(model.shape)).tolist()
    own = {TASK: json.dumps(task.to_dict()), EXAMPLE_PREDICTIONS: json.dumps(found)}
    onnx.helper.set_model_props(graph, {**metadata, **own})
    return graph


def _nodes(model: CRNN) -> list[str]:
    """The operators up to `output`, `(B, 1)`, one a line; weights are known by name.

    A GRU that is given the lengths stops each sequence at its own: it never reads the padding.
    """
    x, nodes = "pixels", ["pixels = Reshape (images, image_shape)"]
    for name, layer in model.encoder.named_children():
        nodes.append(_layer(f"encoder_{name}", layer, x))
        x = f"encoder_{name}"
    nodes += [
        "batch_and_steps = Shape <start = 0, end = 2> (images)",
        "features_shape = Concat <axis = 0> (batch_and_steps, feature_size)",
        f"batch_first = Reshape ({x}, features_shape)",
        "features = Transpose <perm = [1, 0, 2]> (batch_first)",
        f"lengths_32 = Cast <to = {TensorProto.INT32}> (lengths)",
    ]
    x = "features"
    for index, width in enumerate(model.spec.gru_sizes):
        name, inputs = f"gru_{index}", f"{x}, W_{index}, R_{index}, B_{index}, lengths_32"
        # With linear_before_reset the second bias is inside the reset gate, as in PyTorch.
        operator = f"GRU <hidden_size = {width}, linear_before_reset = 1>"
        nodes.append(f"{name}_all, {name}_last = {operator} ({inputs})")
        nodes.append(f"{name} = Squeeze ({name}_all, axis_1)")
        x = name
    nodes.append(f"state = Squeeze ({x}_last, axis_0)")
    return [*nodes, _layer("output", model.output, "state")]


def _layer(name: str, layer: nn.Module, x: str) -> str:
    """The operator of a layer that takes `x` and gives `name`."""
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


def _weights(model: CRNN) -> dict[str, Tensor]:
    """Every tensor that the operators name."""
    weights = {
        name.replace(".", "_"): value
        for name, value in model.state_dict().items()
        if not name.startswith("grus.") and not name.endswith("num_batches_tracked")
    }
    for index, gru in enumerate(model.grus):
        state = {name: _gates(value) for name, value in gru.state_dict().items()}
        weights[f"W_{index}"], weights[f"R_{index}"] = state["weight_ih_l0"], state["weight_hh_l0"]
        weights[f"B_{index}"] = torch.cat([state["bias_ih_l0"], state["bias_hh_l0"]], dim=1)
    return weights | {
        "image_shape": torch.tensor([-1, *model.shape]),
        "feature_size": torch.tensor([model.feature_size]),
        "axis_0": torch.tensor([0]),
        "axis_1": torch.tensor([1]),
    }


def _gates(weights: Tensor) -> Tensor:
    """PyTorch's gates reset, update, new as ONNX's update, reset, new; an axis for directions.

    weights: `(3H, ...)`. Returns `(1, 3H, ...)`.
    """
    reset, update, new = weights.chunk(3)
    return torch.cat([update, reset, new]).unsqueeze(0)
