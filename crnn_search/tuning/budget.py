"""When a search ends early: its budget, the retraining included, and its goals."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from crnn_search.errors import InputError
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage.ledger import ranked
from crnn_search.storage.trial import TrialRecord, TrialState
from crnn_search.text import duration, figure, shown

MAX_HOURS = 1_000_000

_UNITS = {"s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_COMPUTE = {"gpuh": "gpu_seconds", "corehours": "core_seconds", "coreh": "core_seconds"}


@dataclass(frozen=True)
class Budget:
    """What a run may take from now on; None is no limit. All in seconds."""

    time_s: float | None = None
    core_seconds: float | None = None
    gpu_seconds: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As in the manifest."""
        return dict(vars(self))


def parse_budget(time: str | None, compute: str | None) -> Budget:
    """The budget of the options `--time-budget` and `--compute-budget`.

    Raises:
        InputError: one of them is not valid.
    """
    limits: dict[str, float] = {}
    if time is not None:
        limits["time_s"] = _duration(time)
    if compute is not None:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]+)", compute.strip().lower())
        if not match or match[2] not in _COMPUTE or not 0 < float(match[1]) <= MAX_HOURS:
            raise InputError(
                "--compute-budget must be a number above 0 and gpuh or corehours, such as 20gpuh, "
                f"at most {MAX_HOURS} hours, got {shown(compute)}"
            )
        limits[_COMPUTE[match[2]]] = float(match[1]) * 3600
    return Budget(**limits)


def _duration(text: str) -> float:
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(min|[smhd])", text.strip().lower())
    whole = re.sub(r"\s", "", text.lower()) == "".join(number + unit for number, unit in parts)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not whole or not 0 < seconds <= MAX_HOURS * 3600:
        raise InputError(
            "--time-budget must be a time above 0, such as 2h, 90min or 1h30min, at most "
            f"{MAX_HOURS} hours, got {shown(text)}"
        )
    return seconds


Paces = dict[str, float]
"""Seconds that a trial takes for each of its training sequences, by the names of `Budget`."""


class Stage(NamedTuple):
    """A stage of trials without early stopping. epoch_sequences: of each of a trial's epochs."""

    trials: int
    epochs: int
    epoch_sequences: int


def later_stages(space: SearchSpace, finalists: int) -> tuple[Stage, Stage]:
    """What follows a search with so many finalists: their repetitions, and the retrainings.

    A single finalist is not repeated. The winner and a baseline are retrained with each seed.
    """
    search, retrain = space.search, space.retrain
    repetitions = finalists * retrain.seeds if finalists > 1 else 0
    return (
        Stage(repetitions, search.max_epochs, search.epoch_sequences),
        Stage(2 * retrain.seeds, retrain.epochs, retrain.epoch_sequences),
    )


@dataclass(frozen=True)
class Limit:
    """When the search ends early: it has found enough, or finalists and retraining need the rest.

    concurrent: trials that run at once. elapsed_s: returns the run's working time so far.
    before: what the run had used when the budget was set.
    """

    budget: Budget
    space: SearchSpace
    concurrent: int
    elapsed_s: Callable[[], float]
    before: Budget = Budget(0.0, 0.0, 0.0)

    def reached(self, records: Iterable[TrialRecord]) -> str | None:
        """Why no trial of the search may start or continue, or None."""
        records = list(records)
        if reason := self._goal(records):
            return reason
        if self.budget == Budget():
            return None
        trained = [record for record in records if record.epochs]
        used = {
            "time_s": self.elapsed_s(),
            "core_seconds": sum(record.core_seconds for record in trained),
            "gpu_seconds": sum(record.gpu_seconds for record in trained),
        }
        reserve = self.reserve(trained)
        for name, words in _WORDS.items():
            limit, needed = getattr(self.budget, name), reserve[name]
            if limit is None or used[name] - getattr(self.before, name) + needed < limit:
                continue
            if needed >= limit:
                return self._too_small(name, needed)
            if not needed:
                return f"{words} of {_text(limit)} is used up"
            return (
                f"{words} of {_text(limit)}: {_text(needed)} of it are reserved for finalists and "
                "retraining"
            )
        return None

    def _goal(self, records: Sequence[TrialRecord]) -> str | None:
        """Why the search has found enough, or None."""
        search = self.space.search
        if search.target is None and search.patience is None:
            return None
        whole = [record for record in records if record.state == TrialState.COMPLETE]
        if not whole:
            return None
        best = ranked(whole)[0]
        if search.target is not None and best.final_rmse <= search.target:
            return (
                f"{best.trial.name} has a validation RMSE of {figure(best.final_rmse)}; "
                f"search.target is {search.target:g}"
            )
        later = sum(record.ended and record.trial.number > best.trial.number for record in records)
        if search.patience is not None and later >= search.patience:
            trials = f"{later} trial{'s' if later > 1 else ''}"
            return (
                f"no better validation RMSE at the full budget in {trials} that started after "
                f"{best.trial.name}; search.patience is {search.patience}"
            )
        return None

    def time_left_s(self) -> float:
        """How long the run may still take by its budget of time."""
        limit = self.budget.time_s
        if limit is None:
            return math.inf
        return limit - (self.elapsed_s() - (self.before.time_s or 0.0))

    def shortage(self, paces: Paces) -> str | None:
        """Why finalists and retraining alone take more than the budget, or None."""
        for name, needed in self._needed(paces).items():
            limit = getattr(self.budget, name)
            if limit is not None and needed >= limit:
                return self._too_small(name, needed)
        return None

    def reserve(self, trained: Sequence[TrialRecord]) -> dict[str, float]:
        """What finalists and retraining will take, at the pace of the best trials so far."""
        return self._needed(self.paces(trained))

    def paces(self, trained: Sequence[TrialRecord]) -> Paces:
        """Those of the best trials so far; 0 before the first."""
        best = ranked(trained)[: self.space.retrain.finalists]
        sequences = sum(record.epochs for record in best) * self.space.search.epoch_sequences
        sums = {
            "time_s": sum(record.seconds for record in best),
            "core_seconds": sum(record.core_seconds for record in best),
            "gpu_seconds": sum(record.gpu_seconds for record in best),
        }
        return {name: float(value) / sequences if best else 0.0 for name, value in sums.items()}

    def _needed(self, paces: Paces) -> dict[str, float]:
        """What finalists and retraining will take at these paces."""
        needed = dict.fromkeys(_WORDS, 0.0)
        for stage in later_stages(self.space, self.space.retrain.finalists):
            waves = math.ceil(stage.trials / self.concurrent)
            sequences = stage.epochs * stage.epoch_sequences
            needed["time_s"] += waves * sequences * paces["time_s"]
            for name in ("core_seconds", "gpu_seconds"):
                needed[name] += stage.trials * sequences * paces[name]
        return needed

    def _too_small(self, name: str, needed: float) -> str:
        return (
            f"{_WORDS[name]} of {_text(getattr(self.budget, name))} is too small: finalists and "
            f"retraining alone take about {_text(needed)}"
        )


_WORDS = {
    "time_s": "time budget",
    "core_seconds": "budget of core time",
    "gpu_seconds": "budget of GPU time",
}


def _text(seconds: float) -> str:
    return duration(seconds) if seconds >= 1 else f"{seconds:.2g} s"
