from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from crnn_search.training import memory

PROGRAM = """
import resource, sys, torch
from crnn_search.training import memory
if sys.argv[1] == "keep":
    assert memory.keep_freed()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_kept() -> None:
    def faults(mode: str) -> int:
        command = [sys.executable, "-c", PROGRAM, mode]
        return int(subprocess.run(command, capture_output=True, check=True).stdout)

    assert faults("keep") < faults("default") / 10


@pytest.mark.parametrize(
    ("share", "total_mb", "left"), [(0.5, 6000, 0.4), (0.1, 6000, 0.05), (0.25, 60000, 0.24)]
)
def test_share_leaves_memory_for_the_cuda_context(
    share: float, total_mb: float, left: float
) -> None:
    assert memory.own_share(share, total_mb) == pytest.approx(left)


def test_cpu_has_a_peak_and_no_limit() -> None:
    cpu = torch.device("cpu")
    memory.limit_to(0.5, cpu)
    assert memory.peak_mb(cpu) > 50


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_allocation_beyond_the_gpu_share_fails() -> None:
    device = torch.device("cuda")
    total = torch.cuda.get_device_properties(device).total_memory
    memory.limit_to(0.1, device)
    try:
        with pytest.raises(torch.OutOfMemoryError, match="memory"):
            torch.empty(int(total * 0.2), dtype=torch.uint8, device=device)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
