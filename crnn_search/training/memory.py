"""Memory of a training process: limited on a GPU, measured."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import torch

GPU_CONTEXT_MB = 600.0
"""What CUDA and its libraries allocate on a GPU for each process, besides PyTorch's memory."""

MPS_FOLDER = "/tmp/nvidia-mps"  # noqa: S108  (NVIDIA's default)


def limit_to(share: float, device: torch.device) -> None:
    """Limit this process to its share of a GPU; beyond that it gets an out-of-memory error.

    So a growing trial cannot starve its neighbours. No effect on other devices.
    """
    if device.type == "cuda" and 0 < share < 1:
        total_mb = torch.cuda.get_device_properties(device).total_memory / 1e6
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.set_per_process_memory_fraction(own_share(share, total_mb), index)


def own_share(share: float, total_mb: float) -> float:
    """The part of a share that is left for PyTorch's memory: at least half of the share."""
    return max(share - GPU_CONTEXT_MB / total_mb, share / 2)


def mps_runs() -> bool:
    """Whether NVIDIA's Multi-Process Service is running on this node."""
    folder = os.environ.get("CUDA_MPS_PIPE_DIRECTORY", MPS_FOLDER)
    return (Path(folder) / "control").exists()


def reserved_mb(device: torch.device) -> float:
    """Peak of the GPU memory that PyTorch reserved, used or not; on other devices `peak_mb`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 1e6
    return peak_mb(device)


def peak_mb(device: torch.device) -> float:
    """Peak memory of this process on `device`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
