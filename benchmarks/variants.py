"""The searches that `benchmarks.sampling` compares: samplers, ways to ask for widths, rules."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from benchmarks.record_curves import EPOCHS, SPACE
from benchmarks.replay import RealSearch, Search, Searches
from benchmarks.rules import Everyone, FirstBest, Pasha, Promotion, Stopping
from crnn_search.spaces.domains import Domain, IntRange, ListOf, Suggester
from crnn_search.spaces.file import load_space
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage.trial import METRIC
from crnn_search.tuning.scheduler import Asha
from crnn_search.tuning.searcher import StudySearcher

Maker = Callable[[int], BaseSampler]
Make = Callable[[SearchSpace, int], Searches]
"""Makes a search of a space, which has its seed, with at most so many trials."""


@dataclass(frozen=True)
class AlwaysAll:
    """A list of widths for which Optuna is always asked for all places, used or not."""

    of: ListOf

    def suggest(self, suggester: Suggester, name: str) -> tuple[Any, ...]:
        length = suggester.suggest_int(f"{name}.length", self.of.min_length, self.of.max_length)
        places = range(self.of.max_length)
        return tuple(self.of.item.suggest(suggester, f"{name}.{i}") for i in places)[:length]


@dataclass(frozen=True)
class Ratios:
    """A list of widths as the first one and the ratio of each to the one before it."""

    of: ListOf

    def suggest(self, suggester: Suggester, name: str) -> tuple[Any, ...]:
        item = self.of.item
        if not isinstance(item, IntRange):
            raise TypeError(f"{name} must be a list of whole numbers, got {item}")
        length = suggester.suggest_int(f"{name}.length", self.of.min_length, self.of.max_length)
        widths = [item.suggest(suggester, f"{name}.0")]
        for place in range(1, length):
            ratio = suggester.suggest_float(f"{name}.ratio.{place}", 0.5, 4.0, log=True)
            widths.append(min(max(round(widths[-1] * ratio), item.low), item.high))
        return tuple(widths)


def space_of(seed: int, **changes: float) -> SearchSpace:
    """The default space with a search seed, all recorded epochs and nothing tried first."""
    changed = {"seed": seed, "max_epochs": EPOCHS} | changes
    space = load_space(SPACE, [f"search.{key}={value}" for key, value in changed.items()])
    return dataclasses.replace(space, first=())


def with_lists(space: SearchSpace, kind: type[AlwaysAll] | type[Ratios]) -> SearchSpace:
    """The space with its lists asked for in another way."""
    domains: dict[str, Any] = {
        name: kind(domain) if isinstance(domain, ListOf) else domain
        for name, domain in space.space.items()
    }
    replaced: Mapping[str, Domain] = domains
    return dataclasses.replace(space, space=replaced)


def today(space: SearchSpace, trials: int, *, grace: int = 1, factor: float = 3) -> Searches:
    """The searcher and the scheduler of this project."""
    search = space.search.model_copy(update={"trials": trials})
    searcher = StudySearcher(dataclasses.replace(space, search=search))
    return RealSearch(searcher, Asha(EPOCHS, grace, factor), trials, space.search.seed)


def stock(sampler: Maker | None, space: SearchSpace, trials: int, *, grace: int = 1) -> Searches:
    """Ray Tune's own. sampler: in place of the one that `OptunaSearch` makes."""

    def suggest(trial: optuna.Trial) -> dict[str, Any]:
        # Tune merges Optuna's parameters into the result: the space's names must be others.
        return space.suggest(_Prefixed(trial))

    seed = space.search.seed
    made: dict[str, Any] = {"sampler": sampler(seed)} if sampler else {"seed": seed}
    searcher = OptunaSearch(suggest, metric=METRIC, mode="min", **made)
    scheduler = ASHAScheduler(
        "epoch", METRIC, "min", max_t=EPOCHS, grace_period=grace, reduction_factor=3
    )
    return RealSearch(searcher, scheduler, trials, seed)


class _Prefixed:
    """Optuna's trial with other names of parameters than those of hyperparameters."""

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return self._trial.suggest_int(f"param {name}", low, high, step=step, log=log)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return self._trial.suggest_float(f"param {name}", low, high, step=step, log=log)

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self._trial.suggest_categorical(f"param {name}", choices)


def tpe(*, multivariate: bool = False, group: bool = False) -> Maker:
    """Makes TPE that treats running trials as bad ones."""

    def make(seed: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return TPESampler(multivariate=multivariate, group=group, constant_liar=True, seed=seed)

    return make


MULTIVARIATE = tpe(multivariate=True, group=True)
UNGROUPED = tpe(multivariate=True)
UNIVARIATE = tpe()


def random(seed: int) -> BaseSampler:
    """Random sampling."""
    return RandomSampler(seed)


def made(
    sampler: Maker,
    rule: Callable[[], Any],
    space: SearchSpace,
    trials: int,
    *,
    lists: type[AlwaysAll] | type[Ratios] | None = None,
    raw: bool = False,
) -> Searches:
    """A sampler and a rule put together."""
    if lists:
        space = with_lists(space, lists)
    return Search(space, sampler, rule(), trials, raw=raw)


def _asha(grace: int, factor: float) -> Callable[[], Stopping]:
    return partial(Stopping, grace, factor)


REFERENCE = "stock: OptunaSearch, ASHAScheduler"

VARIANTS: Mapping[str, Make] = {
    REFERENCE: partial(stock, None),
    "stock, its TPE multivariate with groups": partial(stock, MULTIVARIATE),
    "stock, first rung at 1/3": partial(stock, None, grace=9),
    "first rung at 1/27, as before": today,
    # samplers under today's ASHA
    "random, ASHA": partial(made, random, _asha(1, 3)),
    "TPE without groups": partial(made, UNGROUPED, _asha(1, 3)),
    "TPE univariate": partial(made, UNIVARIATE, _asha(1, 3)),
    "groups, every width always asked for": partial(
        made, MULTIVARIATE, _asha(1, 3), lists=AlwaysAll
    ),
    "no groups, every width always asked for": partial(
        made, UNGROUPED, _asha(1, 3), lists=AlwaysAll
    ),
    "groups, first width and ratios": partial(made, MULTIVARIATE, _asha(1, 3), lists=Ratios),
    # schedulers under today's sampler
    "raw weights": partial(made, MULTIVARIATE, _asha(1, 3), raw=True),
    "random, raw weights": partial(made, random, _asha(1, 3), raw=True),
    "reduction 2": partial(made, MULTIVARIATE, _asha(1, 2)),
    "reduction 4": partial(made, MULTIVARIATE, _asha(1, 4)),
    "first rung at 1/9": partial(made, MULTIVARIATE, _asha(3, 3)),
    "first rung at 1/3": partial(made, MULTIVARIATE, _asha(9, 3)),
    "first rung at 1/2, reduction 2": partial(made, MULTIVARIATE, _asha(13, 2)),
    "first rung at 1/9, reduction 2": partial(made, MULTIVARIATE, _asha(3, 2)),
    "first rung at 1/9, reduction 4": partial(made, MULTIVARIATE, _asha(3, 4)),
    "random, first rung at 1/9": partial(made, random, _asha(3, 3)),
    "random, first rung at 1/3": partial(made, random, _asha(9, 3)),
    "TPE univariate, first rung at 1/9": partial(made, UNIVARIATE, _asha(3, 3)),
    "TPE univariate, first rung at 1/3": partial(made, UNIVARIATE, _asha(9, 3)),
    "promotion": partial(made, MULTIVARIATE, partial(Promotion, 1, 3)),
    "promotion, first rung at 1/9": partial(made, MULTIVARIATE, partial(Promotion, 3, 3)),
    "PASHA": partial(made, MULTIVARIATE, partial(Pasha, 1, 3, 0.02)),
    "one epoch of 100, the best 8 to the end": partial(
        made, MULTIVARIATE, partial(FirstBest, 1, 100, 8)
    ),
    "three epochs of 60, the best 6 to the end": partial(
        made, MULTIVARIATE, partial(FirstBest, 3, 60, 6)
    ),
    "nothing stopped early": partial(made, MULTIVARIATE, Everyone),
    "random, nothing stopped early": partial(made, random, Everyone),
}
"""By name. Unless it says otherwise: TPE multivariate with groups, true states, first rung at
1/27, reduction 3, stopping."""
