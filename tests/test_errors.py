from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest

from crnn_search import errors
from crnn_search.errors import CrnnSearchError, LeaseLostError, StorageError

EXAMPLES: list[CrnnSearchError] = [
    errors.RunError("no trial"),
    StorageError(Path("runs/demo"), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
    StorageError("s3://bucket", "timeout", "read"),
    LeaseLostError("s3://bucket", "host-1"),
    errors.InterruptedRun("stopped"),
    errors.InputError("wrong"),
    errors.ConfigError(["one", "two"]),
    errors.SpaceError(["one", "two"], "space.yaml:"),
    errors.DataError("truncated"),
    errors.RunFolderError("exists"),
    errors.ModelFileError("not a model"),
    errors.ImageError("not an image"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_errors_survive_pickling(error: CrnnSearchError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
    assert copy.exit_code == error.exit_code


def test_every_error_is_in_the_docstring_and_in_the_examples() -> None:
    classes = {
        value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, CrnnSearchError) and name[0] != "_"
    }
    assert classes == {type(error) for error in EXAMPLES} | {CrnnSearchError}
    for kind in classes:
        assert kind.__name__ in str(errors.__doc__)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            StorageError("runs/demo", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
            "cannot write runs/demo: No space left on device; what was recorded before is kept. "
            "Make room or make the folder writable again, then continue with crnn-search resume",
        ),
        (
            StorageError("s3://bucket/runs", "no access"),
            "cannot write s3://bucket/runs: no access; what was recorded before is kept. "
            "Make the storage writable again, then continue with crnn-search resume",
        ),
        (
            StorageError("runs/demo", OSError(errno.EIO, os.strerror(errno.EIO)), "read"),
            "cannot read runs/demo: Input/output error; what was recorded before is kept. "
            "Make it readable again, then continue with crnn-search resume",
        ),
        (
            LeaseLostError("s3://bucket/runs/demo", "host-1"),
            "another process, host-1, has taken over this run: s3://bucket/runs/demo; this one "
            "did not renew its lease in time and writes nothing more",
        ),
    ],
    ids=["full folder", "store", "read", "lost lease"],
)
def test_a_storage_error_says_what_failed(error: StorageError, message: str) -> None:
    assert str(error) == message


def test_problems_are_listed_below_their_heading() -> None:
    assert str(errors.ConfigError(["one", "two"])) == "one\ntwo"
    assert str(errors.SpaceError(["one", "two"], "space.yaml:")) == "space.yaml:\n  one\n  two"
