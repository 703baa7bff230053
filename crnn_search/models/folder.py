"""The names of an exported model's files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FORMATS = ("safetensors", "onnx")
"""The formats of a model file, which are also its suffixes, in the order that `load` prefers."""


@dataclass(frozen=True)
class ModelFolder:
    """A folder with an exported model."""

    root: Path

    @property
    def example(self) -> Path:
        """A few sequences, in the arrays of a data set."""
        return self.root / "example.npz"

    @property
    def ensemble(self) -> Path:
        """The mean of several networks, as ONNX."""
        return self.root / "ensemble.onnx"

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def readme(self) -> Path:
        return self.root / "README.md"

    def model(self, file_format: str) -> Path:
        """The model file of a format."""
        return self.root / f"model.{file_format}"
