"""A network as an ONNX graph, in ONNX's own text form: few operators, no code.

Shapes: `B` sequences, `T` time steps, `N` = `B·T` images, `D` features, `H` width of a GRU.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

import crnn_search
from crnn_search.models.info import ModelInfo
from crnn_search.models.onnx_file import (
    CONFIG,
    EXAMPLE_PREDICTIONS,
    INFO,
    example,
    open_session,
    output_names,
    run,
)
from crnn_search.models.predictor import shape_text
from crnn_search.training.model import CRNN

OPSET, IR_VERSION = 17, 8
"""ONNX of 2022: it has every operator used here, and all later runtimes read it."""


def build(networks: Sequence[CRNN], info: ModelInfo) -> onnx.ModelProto:
    """The graph of a network, or of the mean of several, with its weights.

    It keeps the contract of `predictor`. networks: float32, on the CPU, of one task.
    """
    shape, outputs = shape_text(info.task.shape)[1:-1], output_names(info.task)
    prefixes = [""] if len(networks) == 1 else [f"network_{k}_" for k in range(len(networks))]
    nodes = [line for pair in zip(networks, prefixes, strict=True) for line in _nodes(*pair)]
    for output, name in zip(outputs, ("last", "running"), strict=True):
        found = ", ".join(f"{prefix}{name}" for prefix in prefixes)
        nodes.append(f"{output} = Mean ({found})")
    graph = onnx.parser.parse_model(
        f'<ir_version: {IR_VERSION}, opset_import: ["": {OPSET}], producer_name: "crnn-search">'
        f"crnn (float[{shape}] images, int64[B] lengths) "
        f"=> (float[B] {outputs[0]}, float[B, T] {outputs[1]}) {{" + "\n".join(nodes) + "}"
    )
    for network, prefix in zip(networks, prefixes, strict=True):
        for name, weights in _weights(network).items():
            graph.graph.initializer.append(numpy_helper.from_array(weights.numpy(), prefix + name))
    onnx.checker.check_model(graph, full_check=True)
    images, lengths = example(info.task.shape)
    running = run(open_session(graph.SerializeToString()), images, lengths)
    metadata = {
        CONFIG: json.dumps(info.config.to_dict()),
        INFO: json.dumps(info.to_dict()),
        EXAMPLE_PREDICTIONS: json.dumps(running[np.arange(len(lengths)), lengths - 1].tolist()),
        "crnn_search_version": crnn_search.__version__,
    }
    onnx.helper.set_model_props(graph, metadata)
    return graph


def _nodes(model: CRNN, prefix: str) -> list[str]:
    """The operators up to `last`, `(B,)`, and `running`, `(B, T)`, one a line.

    Weights are known by name. A GRU that is given the lengths stops each sequence at its own: it
    never reads the padding.
    """

    def name(text: str) -> str:
        return prefix + text

    x, nodes = name("pixels"), [f"{name('pixels')} = Reshape (images, {name('image_shape')})"]
    for layer_name, layer in model.encoder.named_children():
        nodes.append(_layer(name(f"encoder_{layer_name}"), layer, x))
        x = name(f"encoder_{layer_name}")
    nodes += [
        f"{name('batch_and_steps')} = Shape <start = 0, end = 2> (images)",
        f"{name('features_shape')} = Concat <axis = 0> "
        f"({name('batch_and_steps')}, {name('feature_size')})",
        f"{name('batch_first')} = Reshape ({x}, {name('features_shape')})",
        f"{name('features')} = Transpose <perm = [1, 0, 2]> ({name('batch_first')})",
        f"{name('lengths_32')} = Cast <to = {TensorProto.INT32}> (lengths)",
    ]
    x = name("features")
    for index, width in enumerate(model.spec.gru_sizes):
        gru = name(f"gru_{index}")
        weights = ", ".join(name(f"{letter}_{index}") for letter in "WRB")
        # With linear_before_reset the second bias is inside the reset gate, as in PyTorch.
        operator = f"GRU <hidden_size = {width}, linear_before_reset = 1>"
        inputs = f"{x}, {weights}, {name('lengths_32')}"
        nodes.append(f"{gru}_all, {gru}_last = {operator} ({inputs})")
        nodes.append(f"{gru} = Squeeze ({gru}_all, {name('axis_1')})")
        x = gru
    return [
        *nodes,
        f"{name('state')} = Squeeze ({x}_last, {name('axis_0')})",
        _layer(name("output"), model.output, name("state")),
        f"{name('last')} = Squeeze ({name('output')}, {name('axis_1')})",
        f"{name('states')} = Transpose <perm = [1, 0, 2]> ({x})",
        f"{name('columns')} = Transpose <perm = [1, 0]> ({name('output_weight')})",
        f"{name('products')} = MatMul ({name('states')}, {name('columns')})",
        f"{name('sums')} = Add ({name('products')}, {name('output_bias')})",
        f"{name('running')} = Squeeze ({name('sums')}, {name('axis_2')})",
    ]


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
        "axis_2": torch.tensor([2]),
    }


def _gates(weights: Tensor) -> Tensor:
    """PyTorch's gates reset, update, new as ONNX's update, reset, new; an axis for directions.

    weights: `(3H, ...)`. Returns `(1, 3H, ...)`.
    """
    reset, update, new = weights.chunk(3)
    return torch.cat([update, reset, new]).unsqueeze(0)
