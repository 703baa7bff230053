"""What a run reports when nothing shows it: lines of the log, for use from Python."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from crnn_search.tuning.progress import Stage

log = logging.getLogger("crnn_search")


class LogProgress:
    """A `Progress` whose stages and notes are lines of the logger `crnn_search`.

    What happens to each trial is logged anyway, see `tuning.stage_log`.
    """

    def doing(self, what: str) -> None:
        log.info("%s", what)

    def stage(self, stage: Stage) -> None:
        log.info("%s: %d trials of up to %d epochs", stage.title, stage.trials, stage.epochs)

    def started(self, name: str) -> None:
        pass

    def shows_parts(self) -> bool:
        return False

    def within(self, epochs: Mapping[str, float]) -> None:
        pass

    def epoch(self, name: str) -> None:
        pass

    def ended(self, name: str) -> None:
        pass

    def reading(self, what: str, done: int, total: int) -> None:
        log.debug("%s: %d of %d", what, done, total)

    def note(self, text: str) -> None:
        log.info("%s", text)

    def close(self) -> None:
        pass
