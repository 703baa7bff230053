"""Calls of the library that `compiler` makes of folder `c`.

On a machine that cannot compile, `problem` says so, and layers are PyTorch's (decision 0012).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from crnn_search.kernels import compiler

LANES = 8

Result = TypeVar("Result")


def problem() -> str | None:
    """Why there are no kernels on this machine; None if there are. The first call compiles."""
    return compiler.library()[1]


def int16_gains() -> bool:
    """Whether this processor multiplies whole numbers of 16 bits faster than float32.

    One with AVX-512 has twice as wide float32, and mostly bfloat16.
    """
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def library() -> ctypes.CDLL:
    """The compiled library; RuntimeError, with the reason, if there is none."""
    found, reason = compiler.library()
    if found is None:
        raise RuntimeError(reason)
    return found


def call(name: str, rows: slice, *arguments: Tensor | ctypes.Structure | int | None) -> None:
    """Call a kernel on some images. A tensor of `_FORMAT_AFTER` is followed by its format."""
    formats = _FORMAT_AFTER[name]
    values: list[object] = [ctypes.c_long(rows.stop - rows.start)]
    for number, argument in enumerate(arguments):
        if isinstance(argument, Tensor):
            values.append(ctypes.c_void_p(argument.data_ptr()))
            if number in formats:
                values.append(ctypes.c_int(argument.dtype == torch.float32))
        elif isinstance(argument, int):
            values.append(ctypes.c_int(argument))
        elif argument is None:
            values.append(ctypes.c_void_p())
        else:
            values.append(argument)
    getattr(library(), name)(*values)


def in_parts(images: int, work: Callable[[slice], Result]) -> list[Result]:
    """Work on the images in as many parts as PyTorch has threads. C holds no lock of Python's."""
    threads = min(torch.get_num_threads(), images)
    if threads <= 1:
        return [work(slice(0, images))]
    ends = [images * number // threads for number in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, map(slice, ends[:-1], ends[1:])))


def by_lane(values: Tensor) -> Tensor:
    """Float32, the last dimension filled with zeros to a multiple of what is computed at once."""
    values = values.detach().float()
    return F.pad(values, (0, -values.shape[-1] % LANES)).contiguous()


def filled(channels: int) -> int:
    """A number of channels, filled to a multiple of what is computed at once."""
    return -(-channels // LANES) * LANES


_FORMAT_AFTER = {
    "stem_forward": {1, 5},
    "stem_backward": {1, 3},
    "pixel_moments": {0},
    "map_moments": {0},
    "pool_forward": {1},
    "pool_backward_sums": {2},
    "pool_backward": {3},
    "conv": {0},
    "conv_weights": {0},
    "winograd": {0},
    "winograd_weights": {0},
    "int16_conv": {0},
    "int16_conv_weights": {0},
    "int16_product": set(),
    "turn_rows": set(),
    "gru_forward": set(),
    "gru_backward": set(),
}
"""By kernel, the arguments of two possible formats, of which C is told whether it is float32."""
