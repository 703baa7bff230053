"""What a process that trains holds: the memory it freed, a share of a GPU at most, its peak."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import sys
from pathlib import Path

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT_BYTES = 2**30

GPU_CONTEXT_MB = 600.0
"""What CUDA itself and its libraries take on a GPU in each process, beside PyTorch's memory."""

MPS_FOLDER = "/tmp/nvidia-mps"  # noqa: S108  (NVIDIA's default)


def keep_freed() -> bool:
    """Have the process keep large blocks that are freed; whether its C library can.

    A training step frees and takes the same blocks again; taken anew from the kernel, each page
    costs a fault, 3 to 10 % of a step of a large network on a CPU (`docs/experiments.md`).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return all(library.mallopt(name, KEPT_BYTES) for name in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD))


def limit_to(share: float, device: torch.device) -> None:
    """Keep this process within its share of a GPU; more is an out-of-memory error of its own.

    So a trial that grows cannot starve its neighbours. Nothing on another device.
    """
    if device.type == "cuda" and 0 < share < 1:
        total_mb = torch.cuda.get_device_properties(device).total_memory / 1e6
        torch.cuda.set_per_process_memory_fraction(own_share(share, total_mb), device)


def own_share(share: float, total_mb: float) -> float:
    """What of a share is left for PyTorch's memory: at least half of it."""
    return max(share - GPU_CONTEXT_MB / total_mb, share / 2)


def mps_runs() -> bool:
    """Whether NVIDIA's Multi-Process Service waits for this node's processes."""
    folder = os.environ.get("CUDA_MPS_PIPE_DIRECTORY", MPS_FOLDER)
    return (Path(folder) / "control").exists()


def reserved_mb(device: torch.device) -> float:
    """Most that this process took of a GPU for PyTorch, used or not; elsewhere its peak."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 1e6
    return peak_mb(device)


def peak_mb(device: torch.device) -> float:
    """Peak memory of this process, on the device that trains."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
