"""What is wrong with a data set, collected so that one message reports it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

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
        """Count a problem. where: the file and row, or the array and element."""
        self.count += 1
        if len(self._first) < SHOWN:
            self._first.append(f"{where}: {problem}" if where else problem)

    def stop_if_any(self) -> None:
        """Raise what was collected.

        Raises:
            DataError: there was a problem; lists the first ten and says how many there are.
        """
        if self.count:
            raise DataError("\n  ".join([self._heading(), *self._first]))

    def _heading(self) -> str:
        if self.count == 1:
            return f"{self.source} has a problem:"
        shown = f"; the first {SHOWN}:" if self.count > SHOWN else ":"
        return f"{self.source} has {self.count:,} problems{shown}"


def near(name: str, valid: Iterable[str], question: str = "did you mean") -> str:
    """A question after the valid name that is nearest, as `; did you mean …?`, or nothing."""
    lower = {other.lower(): other for other in valid}
    found = difflib.get_close_matches(name.lower(), lower, n=1)
    return f"; {question} {lower[found[0]]}?" if found else ""
