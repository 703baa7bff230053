"""The exceptions of this package.

    CrnnSearchError          exit code 1: the run failed
    ├── RunError             a search or a retraining could not be finished
    ├── StorageError         a run's folder cannot be written: disk full, read-only, gone
    ├── InterruptedRun       the user stopped it; exit code 130
    └── InputError           exit code 2: what the user gave is wrong
        ├── ConfigError      a hyperparameter is out of range, unknown or contradictory
        ├── SpaceError       a search space file; carries every problem found in it
        ├── DataError        MNIST files missing, truncated or altered
        ├── RunFolderError   a run's folder exists already, is missing or cannot be written
        ├── ModelFileError   a file that is no model of this package
        └── ImageError       an image that cannot be decoded

Messages say the rule, the value received and what is valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class CrnnSearchError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors cross processes; by default unpickling would call `__init__` with the message.
        return _unpickle, (type(self), self.args, self.__dict__)


def _unpickle(
    kind: type[CrnnSearchError], args: tuple[Any, ...], fields: dict[str, Any]
) -> CrnnSearchError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(fields)
    return error


class RunError(CrnnSearchError):
    """A search or a retraining could not be finished."""


class StorageError(CrnnSearchError):
    """A file of a run cannot be written; what was recorded before stays."""

    def __init__(self, path: object, error: OSError | str) -> None:
        why = error if isinstance(error, str) else error.strerror or str(error)
        super().__init__(
            f"cannot write {path}: {why}; what was recorded before is kept. Make room or make the "
            "folder writable again, then go on with crnn-search resume"
        )


class InterruptedRun(CrnnSearchError):  # noqa: N818  (an interruption is no error)
    """The user stopped a search or a retraining; what was recorded stays."""

    exit_code = 130


class InputError(CrnnSearchError):
    """What the user gave is wrong; nothing was started or lost."""

    exit_code = 2


class _ProblemsError(InputError):
    """An input error that reports all problems at once."""

    def __init__(self, problems: Sequence[str], heading: str = "") -> None:
        self.problems = list(problems)
        lines = [heading, *(f"  {p}" for p in problems)] if heading else list(problems)
        super().__init__("\n".join(lines))


class ConfigError(_ProblemsError):
    """A hyperparameter is out of range, unknown or contradictory."""


class SpaceError(_ProblemsError):
    """A search space file is wrong; `problems` holds one line for each problem."""


class DataError(InputError):
    """MNIST files are missing, truncated or altered."""


class RunFolderError(InputError):
    """A run's folder exists already, is missing or cannot be written."""


class ModelFileError(InputError):
    """A file is no model of this package."""


class ImageError(InputError):
    """An image cannot be decoded."""
