"""Who goes on in a replayed search (`benchmarks.replay.Rule`): one class a scheduler."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ray.tune.schedulers import TrialScheduler

from benchmarks.record_curves import EPOCHS
from benchmarks.replay import Trial
from crnn_search.tuning.scheduler import Asha


class Everyone:
    """Nothing is stopped early."""

    def goes_on(self, trial: Trial) -> bool:
        return True

    def promoted(self) -> Trial | None:
        return None


class Stopping(Everyone):
    """This project's ASHA: at a rung all but the best of those recorded there stop for good."""

    def __init__(self, grace: int, factor: float) -> None:
        self._asha = Asha(EPOCHS, grace, factor)

    def goes_on(self, trial: Trial) -> bool:
        decision = self._asha.decide(str(trial.number), trial.epoch, trial.values[-1])
        return decision == str(TrialScheduler.CONTINUE)


class FirstBest(Everyone):
    """Trials train `grace` epochs; once so many have, the best `kept` continue to the end."""

    def __init__(self, grace: int, trials: int, kept: int) -> None:
        self._grace, self._trials, self._kept = grace, trials, kept
        self._paused: list[Trial] = []
        self._chosen: list[Trial] | None = None

    def goes_on(self, trial: Trial) -> bool:
        if trial.epoch > self._grace:
            return True
        if trial.epoch == self._grace:
            self._paused.append(trial)
        return trial.epoch < self._grace

    def promoted(self) -> Trial | None:
        if self._chosen is None and len(self._paused) >= self._trials:
            self._chosen = sorted(self._paused, key=_last)[: self._kept]
        return self._chosen.pop(0) if self._chosen else None


class Promotion:
    """ASHA as published (Li et al., arXiv:1810.05934, algorithm 2): trials pause at each rung.

    A free worker continues the best paused trial that is among the best 1 / `factor` of its rung,
    highest rung first; if there is none it starts a new trial.
    """

    def __init__(self, grace: int, factor: int) -> None:
        self._factor = factor
        self._rungs: dict[int, list[tuple[float, int]]] = {}
        epoch = grace
        while epoch < EPOCHS:
            self._rungs[epoch] = []
            epoch *= factor
        self._paused: dict[int, Trial] = {}
        self.highest = EPOCHS

    def goes_on(self, trial: Trial) -> bool:
        if trial.epoch in self._rungs:
            self._rungs[trial.epoch].append((trial.values[-1], trial.number))
            self._paused[trial.number] = trial
            return False
        return trial.epoch < self.highest

    def promoted(self) -> Trial | None:
        for epoch, rung in reversed(self._rungs.items()):
            if epoch >= self.highest:
                continue
            for _, number in sorted(rung)[: len(rung) // self._factor]:
                if number in self._paused and self._paused[number].epoch == epoch:
                    return self._paused.pop(number)
        return None

    def values(self, epoch: int) -> dict[int, float]:
        """The readings in a rung, by number of the trial."""
        return {number: value for value, number in self._rungs.get(epoch, [])}


class Pasha(Promotion):
    """PASHA (Bohdal et al., arXiv:2207.06940): promotion, with as few epochs as ranks need.

    It begins with two rungs. One more is opened each time that the trials of the highest one rank
    otherwise there than in the rung below, where readings that differ by less than `tolerance`, as
    a share, count as equal (the paper estimates its tolerance from crossing curves).
    """

    def __init__(self, grace: int, factor: int, tolerance: float) -> None:
        super().__init__(grace, factor)
        self._levels = [*self._rungs, EPOCHS]
        self._tolerance = tolerance
        self._full: dict[int, float] = {}
        self._open = 1
        self.highest = self._levels[self._open]

    def goes_on(self, trial: Trial) -> bool:
        if trial.epoch == EPOCHS:
            self._full[trial.number] = trial.values[-1]
        goes_on = super().goes_on(trial)
        if trial.epoch == self.highest and self.highest < EPOCHS and self._is_unstable():
            self._open += 1
            self.highest = self._levels[self._open]
        return goes_on

    def _is_unstable(self) -> bool:
        top = self.values(self.highest)
        below = self.values(self._levels[self._open - 1])
        order = sorted(top, key=lambda number: top[number])
        before = [below[number] for number in order if number in below]
        return not _is_sorted(before, self._tolerance)


def _is_sorted(values: Sequence[float], tolerance: float) -> bool:
    """Whether no value is lower than one before it by more than the tolerance."""
    highest = -math.inf
    for value in values:
        if value < highest * (1 - tolerance):
            return False
        highest = max(highest, value)
    return True


def _last(trial: Trial) -> float:
    return trial.values[-1]
