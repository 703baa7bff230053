from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from crnn_search.training import memory


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


def test_limit_names_a_gpu_by_its_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch refuses `cuda` without an index."""
    limits: list[tuple[float, int]] = []
    properties = SimpleNamespace(total_memory=60e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    monkeypatch.setattr(
        torch.cuda,
        "set_per_process_memory_fraction",
        lambda fraction, device: limits.append((fraction, device)),
    )
    for name in ("cuda", "cuda:1"):
        memory.limit_to(0.25, torch.device(name))
    assert [index for _, index in limits] == [2, 1]
    assert [fraction for fraction, _ in limits] == pytest.approx([0.24, 0.24])


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
        torch.cuda.set_per_process_memory_fraction(1.0)
