"""Fixed trials, as Ray Tune's searcher: for all stages but the search."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from ray.tune.search import Searcher

from crnn_search.storage.trial import Trial
from crnn_search.tuning.epoch_result import last_result
from crnn_search.tuning.stage_callback import StageCallback
from crnn_search.tuning.tune_trial import tune_config


class TrialQueue(Searcher):  # type: ignore[misc]
    """Trials in order; those that the callback retries come again at the end."""

    def __init__(self, trials: Iterable[Trial], callback: StageCallback) -> None:
        super().__init__()
        self._waiting = deque(trials)
        self._running: set[str] = set()
        self._callback = callback
        self.finished = False

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial. None: wait; FINISHED: no more."""
        if self._waiting:
            self._running.add(trial_id)
            return tune_config(self._waiting.popleft())
        self.finished = not self._running
        return str(Searcher.FINISHED) if self.finished else None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """A trial of Tune's ended."""
        if trial_id not in self._running:
            return
        self._running.remove(trial_id)
        last = last_result(result)
        if error or (last and last.out_of_memory is not None):
            trial = self._callback.retry(trial_id)
            if trial is not None:
                self._waiting.append(trial)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the run's journal has all of it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""
