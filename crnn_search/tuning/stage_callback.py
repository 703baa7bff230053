"""What a searcher tells the callback of its stage, and what it asks."""

from __future__ import annotations

from typing import Protocol

from crnn_search.storage.trial import InfeasibleTrial, Trial


class StageCallback(Protocol):
    """Records the trials of a stage, and decides on retries and on its end.

    `RunCallback` is the one of a run; `NoCallback` serves simulations.
    """

    def on_trial_created(self, trial: Trial) -> None:
        """A trial was created and is about to run."""

    def on_trial_infeasible(self, trial: InfeasibleTrial) -> None:
        """A sample is infeasible; it takes a number, but never runs."""

    def may_start(self) -> bool:
        """Whether another trial may start."""

    def retry(self, trial_id: str) -> Trial | None:
        """The trial to run again after an error or a lack of memory; None if it has failed.

        trial_id: Tune's.
        """


class NoCallback:
    """Records nothing, retries nothing, has no budget."""

    def on_trial_created(self, trial: Trial) -> None:
        """Nothing."""

    def on_trial_infeasible(self, trial: InfeasibleTrial) -> None:
        """Nothing."""

    def may_start(self) -> bool:
        """True, always."""
        return True

    def retry(self, trial_id: str) -> Trial | None:
        """None, always."""
        return None
