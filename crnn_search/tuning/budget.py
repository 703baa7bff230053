"""Budgets of a search: how long it may take and what it may use, the retraining included."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from crnn_search.errors import InputError
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage.ledger import ranked
from crnn_search.storage.trial import TrialRecord
from crnn_search.text import shown

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
        if not match or match[2] not in _COMPUTE or not float(match[1]):
            raise InputError(
                "--compute-budget must be a number above 0 and gpuh or corehours, such as 20gpuh, "
                f"got {shown(compute)}"
            )
        limits[_COMPUTE[match[2]]] = float(match[1]) * 3600
    return Budget(**limits)


def _duration(text: str) -> float:
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(min|[smhd])", text.strip().lower())
    whole = re.sub(r"\s", "", text.lower()) == "".join(number + unit for number, unit in parts)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not whole or not seconds:
        raise InputError(
            f"--time-budget must be a time above 0, such as 2h, 90min or 1h30min, got {shown(text)}"
        )
    return seconds


@dataclass(frozen=True)
class Limit:
    """When the search must stop, so that finalists and retraining end within the budget.

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
            limit = getattr(self.budget, name)
            if limit is None:
                continue
            if used[name] - getattr(self.before, name) + reserve[name] >= limit:
                return (
                    f"{words} of {limit / 3600:.3g} h: {reserve[name] / 3600:.2g} h of it are "
                    "reserved for finalists and retraining"
                )
        return None

    def reserve(self, trained: list[TrialRecord]) -> dict[str, float]:
        """What finalists and retraining will take, at the pace of the best trials so far."""
        best = ranked(trained)[: self.space.retrain.finalists]
        reserve = dict.fromkeys(_WORDS, 0.0)
        if not best:
            return reserve
        search, retrain = self.space.search, self.space.retrain
        repeats = retrain.finalists * retrain.seeds if retrain.finalists > 1 else 0
        stages = (
            (repeats, search.max_epochs * search.epoch_sequences),
            (2 * retrain.seeds, retrain.epochs * retrain.epoch_sequences),
        )
        for trials, sequences in stages:
            for name in ("core_seconds", "gpu_seconds"):
                reserve[name] += trials * sequences * _pace(best, name, search.epoch_sequences)
            waves = math.ceil(trials / self.concurrent)
            reserve["time_s"] += waves * sequences * _pace(best, "seconds", search.epoch_sequences)
        return reserve


_WORDS = {
    "time_s": "time budget",
    "core_seconds": "budget of core hours",
    "gpu_seconds": "budget of GPU hours",
}


def _pace(records: list[TrialRecord], key: str, epoch_sequences: int) -> float:
    """Seconds of one kind, wall, core or GPU, per training sequence."""
    sequences = sum(record.epochs for record in records) * epoch_sequences
    return float(sum(getattr(record, key) for record in records)) / sequences
