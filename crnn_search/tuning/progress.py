"""What a run reports while it works, and what a display knows of a stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from crnn_search.storage.trial import TrialRecord

Records = dict[str, dict[str, TrialRecord]]
"""What is known of the trials of each stage of a run: by the stage's name, then by the trial's."""


class TimeRange(NamedTuple):
    """How long something still takes, in seconds. low_s: None if it may end at any time."""

    low_s: float | None
    high_s: float


@dataclass(frozen=True)
class Stage:
    """A stage that trains.

    name: search, finalists or retrain. title: its name for users. origin: why it does not start
    from nothing, such as `resumed`, or empty.
    trials: how many it has, or is to have. epochs: the full budget of each. epoch_sequences: of an
    epoch.
    searched: the hyperparameters that trials differ in.
    records: of this and all other stages; they change while it runs.
    time_left: what is left of the whole run, or None if that is not known yet; gets the epochs of
    trials within an epoch, as `Progress.within` does.
    """

    name: str
    title: str
    trials: int
    epochs: int
    epoch_sequences: int
    searched: tuple[str, ...]
    records: Records
    origin: str = ""
    time_left: Callable[[Mapping[str, float]], TimeRange | None] = lambda _: None

    @property
    def own(self) -> dict[str, TrialRecord]:
        """The records of this stage by the trial's name."""
        return self.records.get(self.name, {})


class Progress(Protocol):
    """Shows what a run does, as it happens."""

    def doing(self, what: str) -> None:
        """What the run does from now on, in a few words: `starting Ray`."""

    def stage(self, stage: Stage) -> None:
        """A stage starts or continues."""

    def started(self, name: str) -> None:
        """A trial of the stage started, or started again."""

    def shows_parts(self) -> bool:
        """Whether `within` is to be called."""

    def within(self, epochs: Mapping[str, float]) -> None:
        """How many epochs trials have trained, by name; 1.5 is the middle of the second."""

    def epoch(self, name: str) -> None:
        """A trial of the stage finished an epoch; its record has it."""

    def ended(self, name: str) -> None:
        """A trial of the stage ended; its record says how."""

    def reading(self, what: str, done: int, total: int) -> None:
        """Part of a data set was read. what: is done to it. done: of `total` images."""

    def note(self, text: str) -> None:
        """A message for the user."""

    def close(self) -> None:
        """The run has ended, or its report is shown next."""
