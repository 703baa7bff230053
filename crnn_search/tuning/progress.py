"""What a stage reports while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from crnn_search.storage.trial import TrialRecord


class Progress(Protocol):
    """Shows what happens to the trials of a stage, as it happens."""

    def stage(
        self, title: str, trials: int, epochs: int, known: Sequence[TrialRecord] = ()
    ) -> None:
        """A stage of `trials` trials of at most `epochs` epochs each starts or continues.

        known: trials of an earlier session.
        """

    def started(self, name: str) -> None:
        """A trial started, or started again."""

    def epoch(
        self, name: str, epoch: int, validation_rmse: float | None, train_loss: float
    ) -> None:
        """A trial finished an epoch. validation_rmse: None for a trial without validation."""

    def ended(self, name: str, state: str, reason: str | None) -> None:
        """A trial ended: COMPLETE, PRUNED or FAIL."""

    def reading(self, what: str, done: int, total: int) -> None:
        """Part of a data set was read. what: is done to it. done: of `total` images."""

    def note(self, text: str) -> None:
        """A message for the user."""

    def close(self) -> None:
        """The stage has ended."""
