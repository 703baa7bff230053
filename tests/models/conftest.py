from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from crnn_search.models.folder import FORMATS
from tests.models.networks import SPECS, write


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder with a spec's network in all formats; each is exported once."""

    @functools.cache
    def folder_of(name: str) -> Path:
        folder = tmp_path_factory.mktemp("models") / name
        write(SPECS[name], folder, *FORMATS)
        return folder

    return folder_of


@pytest.fixture(scope="session")
def folder(folder_of: Callable[[str], Path]) -> Path:
    """A folder with a network with batch norm, an embedding and two GRUs."""
    return folder_of("embedding")
