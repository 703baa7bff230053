from __future__ import annotations

import pytest
import torch

from crnn_search.training import device
from crnn_search.training.device import pick_device, supports_bfloat16


def test_named_device_is_picked() -> None:
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("cuda", "mps", "picked"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_auto_picks_the_first_accelerator(
    cuda: bool, mps: bool, picked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device() == torch.device(picked)


@pytest.mark.parametrize(
    ("flags", "supported"), [({"avx2", "avx512_bf16"}, True), ({"avx2", "avx512f"}, False)]
)
def test_cpu_supports_bfloat16_by_its_flags(
    flags: set[str], supported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "cpu_flags", lambda: frozenset(flags))
    assert supports_bfloat16(torch.device("cpu")) is supported
    assert not supports_bfloat16(torch.device("mps"))


def test_cuda_emulation_is_not_support(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation
    )
    assert not supports_bfloat16(torch.device("cuda"))
