"""What measurements depend on: the machine, the versions, the commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from crnn_search.kernels.processor import cpu_model
from crnn_search.training.device import supports_bfloat16

HERE = Path(__file__).parent


def circumstances(*packages: str, checkout: Path = HERE.parent) -> dict[str, Any]:
    """Hardware, versions of Python, PyTorch and other packages, and a checkout's commit."""
    return {
        "hardware": {
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "bfloat16": supports_bfloat16(torch.device("cpu")),
        },
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", *packages)},
        "commit": _commit(checkout),
    }


def in_words(results: dict[str, Any]) -> str:
    """The same in words."""
    hardware, versions = results["hardware"], results["versions"]
    kind = "with" if hardware["bfloat16"] else "without"
    return (
        f"{hardware['cpu']} {kind} bfloat16, {hardware['cores']} cores; "
        f"Python {versions['python']}, "
        + ", ".join(f"{name} {v}" for name, v in versions.items() if name != "python")
        + f"; commit {results['commit']}"
    )


def _commit(checkout: Path) -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=checkout)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "crnn_search")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (" and changes" if changed else "")
