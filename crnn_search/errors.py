"""The exceptions of this package.

    CrnnSearchError          exit code 1: the run failed
    ├── RunError             a search or a retraining could not be finished
    ├── StorageError         a run's folder or object store cannot be read or written
    │   └── LeaseLostError   another process has taken over the run
    ├── InterruptedRun       the user stopped it; exit code 130
    └── InputError           exit code 2: what the user gave is wrong
        ├── ConfigError      a hyperparameter is out of range, unknown or contradictory
        ├── SpaceError       a search space file; carries every problem found in it
        ├── DataError        a data set is missing, damaged or not valid
        ├── RunFolderError   a run's folder exists already, is missing, in use or not accessible
        ├── ModelFileError   a file that is not a model of this package
        └── ImageError       an image that cannot be decoded

Messages say the rule, the value received and what is valid. Errors cross processes: each hands all
arguments of its constructor to `Exception`, so that pickling calls the constructor again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Action = Literal["read", "write"]


class CrnnSearchError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 1


class RunError(CrnnSearchError):
    """A search or a retraining could not be finished."""


class StorageError(CrnnSearchError):
    """A file or an object of a run cannot be read or written; what was recorded before is kept.

    path: the file, folder or URI. reason: why, in a few words.
    """

    def __init__(self, path: object, error: OSError | str, action: Action = "write") -> None:
        self.path = path
        self.reason = error if isinstance(error, str) else error.strerror or str(error)
        super().__init__(path, self.reason, action)
        self.action = action

    def __str__(self) -> str:
        if self.action == "read":
            remedy = "Make it readable again"
        elif "://" in str(self.path):
            remedy = "Make the storage writable again"
        else:
            remedy = "Make room or make the folder writable again"
        return (
            f"cannot {self.action} {self.path}: {self.reason}; what was recorded before is kept. "
            f"{remedy}, then continue with crnn-search resume"
        )


class LeaseLostError(StorageError):
    """Another process has taken over the run, since this one was silent for too long.

    location: the run's URI. owner: the other process.
    """

    def __init__(self, location: str, owner: str | None) -> None:
        super().__init__(location, f"another process, {owner}, has taken over this run")
        self.args = (location, owner)

    def __str__(self) -> str:
        return (
            f"{self.reason}: {self.path}; this one did not renew its lease in time and writes "
            "nothing more"
        )


class InterruptedRun(CrnnSearchError):  # noqa: N818  (an interruption is no error)
    """The user stopped a search or a retraining; what was recorded is kept."""

    exit_code = 130


class InputError(CrnnSearchError):
    """What the user gave is wrong; nothing was started or lost."""

    exit_code = 2


class _ProblemsError(InputError):
    """An input error that reports all problems at once, one a line, below a heading if given."""

    def __init__(self, problems: Sequence[str], heading: str = "") -> None:
        super().__init__(problems, heading)
        self.problems = list(problems)
        self.heading = heading

    def __str__(self) -> str:
        if not self.heading:
            return "\n".join(self.problems)
        return "\n".join([self.heading, *(f"  {problem}" for problem in self.problems)])


class ConfigError(_ProblemsError):
    """A hyperparameter is out of range, unknown or contradictory."""


class SpaceError(_ProblemsError):
    """A search space file is wrong; `problems` holds one line for each problem."""


class DataError(InputError):
    """A data set, the user's or MNIST, is missing, damaged or not valid."""


class RunFolderError(InputError):
    """A run's folder exists already, is missing, in use or cannot be read or written."""


class ModelFileError(InputError):
    """A file is not a model of this package."""


class ImageError(InputError):
    """An image cannot be decoded."""
