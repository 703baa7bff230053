"""What is wrong with a data set, collected so that one message reports it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NoReturn

from crnn_search.errors import DataError

SHOWN = 10
"""Problems that a message lists; of the others it gives the number."""


class Problems:
    """Problems of one data set.

    source: what messages call the data set, such as its path.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.count = 0
        self._first: list[str] = []

    def add(self, where: str, problem: str) -> None:
        """Count a problem. where: the file and row, or the array and element; may be empty."""
        self.count += 1
        if len(self._first) < SHOWN:
            self._first.append(f"{where}: {problem}" if where else problem)

    def fail(self, where: str, problem: str) -> NoReturn:
        """Add a problem after which nothing else can be checked, and raise all."""
        self.add(where, problem)
        raise self._error()

    def raise_any(self) -> None:
        """Raise what was collected.

        Raises:
            DataError: there was a problem; lists the first ten and says how many there are.
        """
        if self.count:
            raise self._error()

    def _error(self) -> DataError:
        count = "a problem" if self.count == 1 else f"{self.count:,} problems"
        first = f"; the first {SHOWN}" if self.count > SHOWN else ""
        return DataError("\n  ".join([f"{self.source} has {count}{first}:", *self._first]))


def near(name: str, valid: Iterable[str]) -> str:
    """The valid name that is nearest, as `; did you mean …?`, or nothing."""
    lower = {other.lower(): other for other in valid}
    found = difflib.get_close_matches(name.lower(), lower, n=1)
    return f"; did you mean {lower[found[0]]}?" if found else ""
