from __future__ import annotations

from pathlib import Path

import pytest

from crnn_search.kernels import processor

X86 = (
    "processor\t: 0\nmodel\t\t: 17\nmodel name\t: AMD EPYC 9R14\nflags\t\t: fpu avx2 avx512_bf16\n"
)
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16\n"


@pytest.mark.parametrize(
    ("text", "flags"),
    [(X86, {"fpu", "avx2", "avx512_bf16"}), (ARM, {"fp", "asimd", "bf16"}), (None, set())],
)
def test_flags(
    text: str | None, flags: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    if text:
        (tmp_path / "cpuinfo").write_text(text, encoding="utf-8")
    assert processor.cpu_flags() == flags


def test_model_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(X86, encoding="utf-8")
    assert processor.cpu_model() == "AMD EPYC 9R14"
    (tmp_path / "cpuinfo").unlink()
    assert processor.cpu_model()
