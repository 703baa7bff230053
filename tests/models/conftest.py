from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from crnn_search.data.task_info import TaskInfo
from crnn_search.models.folder import FORMATS
from tests.models.networks import SPECS, SUMS, write

FolderOf = Callable[..., Path]
"""A spec's name, and a task if it is not MNIST's sums, to a model's folder."""


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> FolderOf:
    """Gives the folder with a spec's network in all formats; each is exported once."""

    @functools.cache
    def folder_of(name: str, task: TaskInfo = SUMS) -> Path:
        folder = tmp_path_factory.mktemp("models") / name
        write(SPECS[name], folder, *FORMATS, task=task)
        return folder

    return folder_of


@pytest.fixture(scope="session")
def folder(folder_of: FolderOf) -> Path:
    """A folder with a network with batch norm, an embedding and two GRUs."""
    return folder_of("embedding")
