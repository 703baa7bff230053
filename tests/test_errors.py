from __future__ import annotations

import pickle

import pytest

from crnn_search.errors import CrnnSearchError, RunError, SpaceError, StorageError


@pytest.mark.parametrize(
    "error",
    [RunError("no trial"), SpaceError(["one", "two"], "space.yaml:"), StorageError("x", "full")],
)
def test_errors_survive_a_process_boundary(error: CrnnSearchError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
