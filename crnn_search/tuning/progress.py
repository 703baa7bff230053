"""What a stage reports while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from crnn_search.storage.trial import JobRecord


class Progress(Protocol):
    """Hears of everything that happens to the jobs of a stage."""

    def stage(self, title: str, jobs: int, epochs: int, known: Sequence[JobRecord] = ()) -> None:
        """A stage of `jobs` jobs of at most `epochs` epochs each begins, or goes on.

        known: jobs of an earlier session.
        """

    def started(self, name: str) -> None:
        """A job began its first epoch."""

    def epoch(self, name: str, epoch: int, rmse: float | None, loss: float) -> None:
        """A job ended an epoch; `rmse` is that of validation."""

    def ended(self, name: str, state: str, reason: str | None) -> None:
        """A job ended: COMPLETE, PRUNED or FAIL."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def close(self) -> None:
        """The stage is over."""
