"""This machine's processor, as Linux describes it in /proc/cpuinfo."""

from __future__ import annotations

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def cpu_model() -> str:
    """The processor's name, such as "AMD EPYC 9R14"; the architecture where none is given."""
    return _field("model name", "Model") or platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """Its instruction sets, such as "avx2" and "avx512_bf16"; empty where they are not known."""
    return frozenset(_field("flags", "Features").split())


def _field(*names: str) -> str:
    """The first value with one of these names; empty if there is none."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in names:
            return value.strip()
    return ""
