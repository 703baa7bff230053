"""How often is a forecast right? `python -m benchmarks.forecast`.

Searches over `search_spaces/default.yaml` are replayed on recorded learning curves through the real
searcher and scheduler (`benchmarks.replay`), and forecast as `check --forecast` does from
eight random configurations. Counted is how often epochs and core seconds of the searches are in the
forecast's range, with the sampler's learning in it and without. Prints the rows of a table in
`docs/experiments.md`; takes ten minutes.
"""

from __future__ import annotations

import random
import statistics
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.landscape import recorded
from benchmarks.replay import quiet, replay
from benchmarks.variants import space_of, today
from crnn_search.spaces.space import SearchSpace, feasible, sample
from crnn_search.training.probe import Cost
from crnn_search.tuning import replay as replayed
from crnn_search.tuning.replay import MAX_LEARNING, Costs, replay_run

SETTINGS = (
    {"trials": 16, "workers": 2, "factor": 3, "grace": 9},
    {"trials": 64, "workers": 2, "factor": 3, "grace": 1},
    {"trials": 64, "workers": 16, "factor": 3, "grace": 9},
    {"trials": 64, "workers": 4, "factor": 2, "grace": 9},
    {"trials": 64, "workers": 4, "factor": 3, "grace": 3},
    {"trials": 128, "workers": 16, "factor": 3, "grace": 9},
)
SEARCHES, FORECASTS, RUNS = 8, 20, 60


def searched(space: SearchSpace, workers: int) -> tuple[float, float]:
    """Epochs and core seconds of a search of the real searcher."""
    spec = space.search
    found = today(space, spec.trials, grace=spec.grace_epochs, factor=spec.reduction_factor)
    steps = list(replay(found, workers))
    return len(steps), sum(step.seconds for step in steps)


def of_setting(trials: int, factor: int, grace: int, seed: int) -> SearchSpace:
    """The space of one search."""
    return space_of(seed, trials=trials, reduction_factor=factor, grace_epochs=grace)


def forecast(space: SearchSpace, workers: int, runs: int) -> Any:
    """5 %, median and 95 % of the epochs and the core seconds that are forecast, `(3, 2)`."""
    seed = space.search.seed
    configs = feasible(space, sample(space, 1000 + seed, 50))[:8]
    seconds = [recorded().epoch_s(config.to_dict()) for config in configs]
    costs = Costs((), tuple(Cost(s, s, 0.0) for s in seconds), Cost(1.0, 1.0, 0.0))
    draws = random.Random(seed)
    works = [replay_run(space, costs, workers, draws)[0] for _ in range(runs)]
    found = [(work.epochs, work.trial_s) for work in works]
    return np.quantile(found, [0.05, 0.5, 0.95], axis=0)


def compare(
    setting: dict[str, int], searches: int, forecasts: int, runs: int
) -> dict[str, list[float]]:
    """Medians of epochs and seconds of searches, and of those forecast without and with learning.

    Behind those forecast: the shares of searches that are in a forecast's range.
    """
    trials, workers, factor, grace = setting.values()
    truth = np.array(
        [searched(of_setting(trials, factor, grace, seed), workers) for seed in range(searches)]
    )
    rows = {"searches": [float(value) for value in np.median(truth, axis=0)]}
    for name, learning in (("without learning", 0.0), ("with learning", MAX_LEARNING)):
        with mock.patch.object(replayed, "MAX_LEARNING", learning):
            found = [
                forecast(of_setting(trials, factor, grace, seed), workers, runs)
                for seed in range(forecasts)
            ]
        inside = [(bounds[0] <= truth) & (truth <= bounds[2]) for bounds in found]
        medians = np.median([bounds[1] for bounds in found], axis=0)
        rows[name] = [*map(float, medians), *map(float, np.mean(inside, axis=(0, 1)))]
    return rows


def main() -> None:
    quiet()
    shares: dict[str, list[list[float]]] = {}
    for setting in SETTINGS:
        rows = compare(setting, SEARCHES, FORECASTS, RUNS)
        cells = [f"{value}" for value in setting.values()]
        cells += [f"{value:,.0f}" for value in rows.pop("searches")]
        for name, (epochs, seconds, *inside) in rows.items():
            shares.setdefault(name, []).append(inside)
            cells += [f"{epochs:,.0f}, {inside[0]:.0%}", f"{seconds:,.0f}, {inside[1]:.0%}"]
        print("| " + " | ".join(cells) + " |", flush=True)
    for name, found in shares.items():
        epochs, seconds = (statistics.fmean(column) for column in zip(*found, strict=True))
        print(f"{name}: epochs in range {epochs:.0%}, core seconds {seconds:.0%}")


if __name__ == "__main__":
    main()
