"""What a run reports when nothing shows it: lines of the log, for use from Python."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from crnn_search.storage.trial import TrialRecord

log = logging.getLogger("crnn_search")


class LogProgress:
    """A `Progress` whose stages, ended trials and notes are lines of the logger `crnn_search`."""

    def stage(
        self, title: str, trials: int, epochs: int, known: Sequence[TrialRecord] = ()
    ) -> None:
        log.info("%s: %d trials of up to %d epochs", title, trials, epochs)

    def started(self, name: str) -> None:
        pass

    def epoch(
        self, name: str, epoch: int, validation_rmse: float | None, train_loss: float
    ) -> None:
        log.debug("%s: epoch %d, validation RMSE %s", name, epoch, validation_rmse)

    def ended(self, name: str, state: str, reason: str | None) -> None:
        log.info("%s: %s%s", name, state, f", {reason}" if reason else "")

    def reading(self, what: str, done: int, total: int) -> None:
        log.debug("%s: %d of %d", what, done, total)

    def note(self, text: str) -> None:
        log.info("%s", text)

    def close(self) -> None:
        pass
