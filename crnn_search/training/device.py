"""Devices: which one to use, and what it computes natively."""

from __future__ import annotations

import torch

from crnn_search.kernels.processor import cpu_flags


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; `auto` is CUDA, else MPS, else the CPU."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def supports_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 natively, without emulation."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and "avx512_bf16" in cpu_flags()
