"""`python -m tests.held_trials`: `crnn-search` with trials that are held: see `held`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it when it is imported

from crnn_search.cli.app import main
from crnn_search.tuning import trainable, tuner
from crnn_search.tuning.epoch_result import EpochResult
from crnn_search.tuning.trainable import TrialTrainable
from crnn_search.tuning.worker import Worker
from tests import held


class HeldTrainable(TrialTrainable):
    """Trains with a `HeldWorker`."""

    def setup(self, config: dict[str, Any], *arguments: Any, **parameters: Any) -> None:
        trainable.Worker = HeldWorker  # type: ignore[attr-defined]
        super().setup(config, *arguments, **parameters)


class HeldWorker(Worker):
    """Lets all trials but the first wait before their second epoch."""

    def _epoch(self) -> EpochResult:
        assert self._state is not None
        if self._trial.number >= held.FREE and self._state.epoch == 1:
            self._wait()
        return super()._epoch()

    def _wait(self) -> None:
        start = time.monotonic()
        while not held.go_file(self._search()).exists():
            if time.monotonic() - start > held.HELD_FOR_S:
                raise TimeoutError(f"nobody has let the trial go for {held.HELD_FOR_S:.0f} s")
            time.sleep(0.05)

    def _note(self, text: str) -> None:
        super()._note(text)
        with held.notes_file(self._search()).open("a") as file:
            file.write(f"{text}\n")

    def _search(self) -> str:
        return Path(self._checkpoints).parent.name


if __name__ == "__main__":
    from tests import held_trials  # workers find the class by this name, not by `__main__`

    tuner.TrialTrainable = held_trials.HeldTrainable  # type: ignore[attr-defined]
    main()
