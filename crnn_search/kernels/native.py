"""Calls the compiled kernels.

On a machine that cannot compile them, `problem` says why, and PyTorch's own layers serve (decision
0012).
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from crnn_search.kernels import compiler, signatures

Result = TypeVar("Result")


def problem() -> str | None:
    """Why this machine has no compiled kernels; None if it has. The first call compiles them."""
    return compiler.library()[1]


def call(kernel: str, sizes: Mapping[str, int], **arrays: Tensor | None) -> None:
    """Call a kernel of `signatures` with its sizes and arrays.

    Raises:
        ValueError: a size or array is not what the kernel reads or writes.
        RuntimeError: there are no compiled kernels.
    """
    _function(kernel)(*signatures.arguments(kernel, sizes, arrays))


def in_parts(images: int, work: Callable[[slice], Result]) -> list[Result]:
    """Run `work` on as many slices of the images as PyTorch has threads, at the same time.

    C code runs without Python's lock.
    """
    threads = min(torch.get_num_threads(), images)
    if threads <= 1:
        return [work(slice(0, images))]
    ends = [images * part // threads for part in range(threads + 1)]
    return list(_pool(threads, os.getpid()).map(work, map(slice, ends[:-1], ends[1:])))


def padded(values: Tensor) -> Tensor:
    """Float32, the last dimension padded with zeros to a multiple of `LANES`."""
    values = values.detach().float()
    return F.pad(values, (0, -values.shape[-1] % signatures.LANES)).contiguous()


@functools.cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads that all calls share; a forked process needs its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="kernels")


def _function(kernel: str) -> Any:
    library, reason = compiler.library()
    if library is None:
        raise RuntimeError(f"there are no compiled kernels: {reason}")
    function = getattr(library, kernel)
    if function.argtypes is None:
        signature = signatures.SIGNATURES[kernel]
        ints = [ctypes.c_int] * (len(signature.sizes) - 1)
        pointers = [ctypes.c_void_p] * len(signature.arrays)
        function.argtypes, function.restype = [ctypes.c_long, *ints, *pointers], None
    return function
