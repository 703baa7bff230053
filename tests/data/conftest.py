"""Data sets are cached in a folder of the test."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("CRNN_SEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
