"""The arguments of every C kernel, checked before each call.

C knows neither dtype nor shape of what a pointer points to: a wrong one would silently give wrong
results or overwrite memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

LANES = 8
"""Channels that are computed at once, `LANES` of vectors.h."""

POINTS = 36
"""Values that winograd.c multiplies for a tile of 4 × 4 results."""


def round_up(channels: int) -> int:
    """A number of channels, rounded up to a multiple of `LANES`."""
    return -(-channels // LANES) * LANES


def positions(pixels: int, layer: Mapping[str, int]) -> int:
    """Positions of a layer's kernel along so many pixels. layer: `before`, `after`, `kernel`."""
    return pixels + layer["before"] + layer["after"] - layer["kernel"] + 1


@dataclass(frozen=True)
class Array:
    """A tensor argument.

    shape: the names of its sizes. is_f32: of several dtypes, the size that tells C which it is.
    """

    name: str
    shape: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...]
    layout: torch.memory_format = torch.contiguous_format
    is_f32: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Signature:
    """C's parameters in order: the sizes (a long, then ints), then a pointer for each array."""

    sizes: tuple[str, ...]
    arrays: tuple[Array, ...]


def arguments(
    kernel: str, sizes: Mapping[str, int], arrays: Mapping[str, Tensor | None]
) -> list[int | None]:
    """The values to call a kernel with.

    sizes: by name, those that C takes (`is_f32` and `pixels_f32` are added) and others that shapes
    need. arrays: every tensor by name; None for an optional one.

    Raises:
        ValueError: a size or tensor is not what the kernel reads or writes.
    """
    signature, values = SIGNATURES[kernel], dict(sizes)
    for name, (low, high) in _LIMITS.items():
        if name in values and not low <= values[name] <= high:
            raise ValueError(f"{kernel}: {name} must be {low} to {high}, received {values[name]}")
    pointers = [_pointer(kernel, array, arrays[array.name], values) for array in signature.arrays]
    return [*(values[name] for name in signature.sizes), *pointers]


def _pointer(
    kernel: str, array: Array, tensor: Tensor | None, values: dict[str, int]
) -> int | None:
    if tensor is None:
        if array.optional:
            return None
        raise ValueError(f"{kernel}: {array.name} is missing")
    shape = tuple([_size(name, values) for name in array.shape])
    valid = tensor.dtype in array.dtypes and tensor.shape == shape and tensor.is_cpu
    if not (valid and tensor.is_contiguous(memory_format=array.layout)):
        raise ValueError(_refusal(kernel, array, tensor, shape))
    if array.is_f32:
        is_f32 = int(tensor.dtype == torch.float32)
        if values.setdefault(array.is_f32, is_f32) != is_f32:
            raise ValueError(f"{kernel}: all maps must have one dtype, {array.name} has another")
    return tensor.data_ptr()


def _size(name: str, values: Mapping[str, int]) -> int:
    if name in values:
        return values[name]
    return int(name) if name.isdigit() else _DERIVED[name](values)


def _refusal(kernel: str, array: Array, tensor: Tensor, shape: tuple[int, ...]) -> str:
    dtypes = " or ".join(str(dtype).removeprefix("torch.") for dtype in array.dtypes)
    layout = "channels last" if array.layout == torch.channels_last else "contiguous"
    return (
        f"{kernel}: {array.name} must be {dtypes} of shape {shape}, {layout}, on the CPU; received "
        f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)} with strides "
        f"{tensor.stride()} on {tensor.device.type}"
    )


_LIMITS = {"pool": (1, 4), "kernel": (1, 9), "before": (0, 4), "after": (0, 4)}

_DERIVED: Mapping[str, Callable[[Mapping[str, int]], int]] = {
    "taps": lambda n: n["inputs"] * n["kernel"] ** 2,
    "lanes": lambda n: round_up(n["channels"]),
    "output_lanes": lambda n: round_up(n["outputs"]),
    "stem_rows": lambda n: positions(n["rows"], n) // n["pool"],
    "stem_columns": lambda n: positions(n["columns"], n) // n["pool"],
    "pooled_rows": lambda n: n["rows"] // n["pool"],
    "pooled_columns": lambda n: n["columns"] // n["pool"],
    "out_rows": lambda n: n["rows"] + n["before"] + n["after"] - 2,
    "out_columns": lambda n: n["columns"] + n["before"] + n["after"] - 2,
    "two_gates": lambda n: 2 * n["width"],
    "gates": lambda n: 3 * n["width"],
}
"""Sizes that follow from others."""


def _array(text: str, dtype: torch.dtype) -> Array:
    """An array from its name and shape; a `?` after the name makes it optional."""
    name, *shape = text.split()
    return Array(name.rstrip("?"), tuple(shape), (dtype,), optional=name.endswith("?"))


def _f32(text: str) -> Array:
    return _array(text, torch.float32)


def _f64(text: str) -> Array:
    return _array(text, torch.float64)


def _maps(text: str, *dtypes: torch.dtype) -> Array:
    """Maps of these dtypes, channels last; of bfloat16 or float32 if there are none."""
    name, *shape = text.split()
    flag = "" if dtypes else "is_f32"
    dtypes = dtypes or (torch.bfloat16, torch.float32)
    return Array(name, tuple(shape), dtypes, torch.channels_last, flag)


def _signature(sizes: str, *arrays: Array) -> Signature:
    return Signature(tuple(sizes.split()), arrays)


_PIXELS = Array(
    "pixels", ("images", "inputs", "rows", "columns"), (torch.uint8, torch.float32),
    is_f32="pixels_f32",
)  # fmt: skip
_STEM = "images inputs rows columns pool kernel channels before after pixels_f32 is_f32"
_STEM_MAP, _MAP = " images channels stem_rows stem_columns", " images channels rows columns"
_POOLED = " images channels pooled_rows pooled_columns"
_CONV = "images rows columns channels before after outputs"
_RESULT = " images outputs out_rows out_columns"

SIGNATURES: Mapping[str, Signature] = {
    "stem_forward": _signature(
        _STEM, _PIXELS, _f32("weights taps lanes"), _f32("bias lanes"),
        _maps("result" + _STEM_MAP), _maps("argmax" + _STEM_MAP, torch.uint8),
    ),
    "stem_backward": _signature(
        _STEM, _PIXELS, _maps("grad" + _STEM_MAP), _maps("argmax" + _STEM_MAP, torch.uint8),
        _f32("grad_weights taps lanes"), _f32("grad_bias lanes"),
    ),
    "pixel_moments": _signature(
        "images inputs rows columns kernel before after pixels_f32", _PIXELS,
        _f32("shift inputs"), _f64("sums taps"),
        _f64("products taps taps"),
    ),
    "map_moments": _signature(
        "images rows columns channels is_f32", _maps("maps" + _MAP), _f64("sums channels"),
        _f64("squares channels"),
    ),
    "pool_forward": _signature(
        "images pool rows columns channels is_f32", _maps("maps" + _MAP), _f32("scale lanes"),
        _f32("shift lanes"), _maps("result" + _POOLED), _maps("argmax" + _POOLED, torch.uint8),
        _maps("selected" + _POOLED),
    ),
    "pool_backward_sums": _signature(
        "images rows columns channels is_f32", _maps("grad" + _MAP),
        _maps("argmax" + _MAP, torch.uint8), _maps("selected" + _MAP), _f64("sums channels"),
        _f64("products channels"),
    ),
    "pool_backward": _signature(
        "images pool rows columns channels is_f32", _maps("grad" + _POOLED),
        _maps("argmax" + _POOLED, torch.uint8), _maps("maps" + _MAP), _f32("scale lanes"),
        _f32("slope lanes"), _f32("offset lanes"), _maps("grad_maps" + _MAP),
    ),
    "winograd": _signature(
        _CONV, _maps("maps" + _MAP, torch.float32), _f32(f"weights {POINTS} channels output_lanes"),
        _maps("result" + _RESULT, torch.float32), _f64("sums? outputs"),
        _f64("squares? outputs"),
    ),
    "winograd_weights": _signature(
        _CONV, _maps("maps" + _MAP, torch.float32), _maps("grad" + _RESULT, torch.float32),
        _f32(f"grad_weights {POINTS} channels output_lanes"),
    ),
    "gru_forward": _signature(
        "steps width", _array("batch_sizes steps", torch.int64), _f32("gates rows gates"),
        _f32("weights gates width"), _f32("bias gates"), _f32("hidden rows gates"),
        _f32("sigmoids rows two_gates"), _f32("new rows width"), _f32("states rows width"),
        _f32("before rows width"), _f32("last sequences width"),
    ),
    "gru_backward": _signature(
        "steps width", _array("batch_sizes steps", torch.int64),
        _f32("grad_states? rows width"), _f32("grad_last? sequences width"),
        _f32("weights gates width"), _f32("before rows width"), _f32("new rows width"),
        _f32("hidden rows gates"), _f32("sigmoids rows two_gates"), _f32("grad_gates rows gates"),
        _f32("grad_hidden rows gates"), _f32("grad_bias gates"),
    ),
}  # fmt: skip
