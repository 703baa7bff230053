"""Do true trial states find better networks? `python -m benchmarks.sampling`.

Searches of 100 trials over `search_spaces/default.yaml`, replayed on recorded learning curves
(`benchmarks.record_curves`) with four workers and a simulated clock: this project's searcher beside
stock `OptunaSearch` with the same sampler and beside random search, all under the same ASHA. A
configuration that was not recorded gets the curve of its nearest recorded neighbours.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import json
import logging
import math
import statistics
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from benchmarks.record_curves import EPOCHS, RECORDING, SPACE
from benchmarks.untrained import epoch_result
from crnn_search.hyperparameters import PARAMETERS, TrialConfig
from crnn_search.spaces.file import load_space
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage.trial import METRIC

RESULTS = Path(__file__).parent / "results" / "sampling.json"
NEIGHBOURS, WORKERS, TRIALS = 4, 4, 100
MARKS = (25, 50, 100)
SETUPS = ("ours", "stock", "random")
CEILING = 30.0
"""Replaces an RMSE that is not finite: far above guessing the mean (11.9)."""


def features(config: dict[str, Any]) -> list[float]:
    """A configuration as numbers of about the same scale, 0 to 1."""
    conv, gru = config["conv_channels"], config["gru_sizes"]
    kernel = config["kernel_size"]
    return [
        (len(conv) - 1) / 3,
        math.log2(math.prod(conv) ** (1 / len(conv)) / 8) / 3,
        math.log2(conv[0] / 8) / 3,
        math.log2(conv[-1] / 8) / 3,
        float(kernel[0] == 5),
        float(len(kernel) == 2),
        (len(gru) - 1) / 2,
        math.log2(math.prod(gru) ** (1 / len(gru)) / 32) / 3,
        math.log2(gru[-1] / 32) / 3,
        config["dropout"] / 0.5,
        config["affine"] / 0.6,
        (config["max_sequence_length"] - 2) / 6,
        math.log(config["learning_rate"] / 1e-4) / math.log(200),
        math.log2(config["batch_size"] / 64) / 3,
    ]


class Curves:
    """Recorded learning curves, and an estimate for every other configuration."""

    def __init__(self, path: Path) -> None:
        records = [json.loads(line) for line in path.read_text().splitlines()]
        self.x = np.array([features(TrialConfig.from_dict(r["config"]).to_dict()) for r in records])
        curves = [
            [CEILING if rmse is None else min(rmse, CEILING) for rmse in r["validation_rmse"]]
            for r in records
        ]
        self.y = np.log([curve + [CEILING] * (EPOCHS - len(curve)) for curve in curves])
        self.seconds = np.array([statistics.fmean(r["seconds"]) for r in records])
        ranks = [np.argsort(np.argsort(column)) for column in self.x.T]
        last = np.argsort(np.argsort(self.y[:, -1]))
        self.weights = np.array([max(0.1, abs(np.corrcoef(r, last)[0, 1])) for r in ranks])

    def estimate(self, x: np.ndarray, without: int | None = None) -> tuple[np.ndarray, float]:
        """RMSE by epoch and seconds an epoch; nearer neighbours weigh more."""
        distance = np.sqrt((((self.x - x) * self.weights) ** 2).sum(1))
        if without is not None:
            distance[without] = np.inf
        near = np.argpartition(distance, NEIGHBOURS)[:NEIGHBOURS]
        share = 1 / (distance[near] + 1e-3)
        share /= share.sum()
        return np.exp(share @ self.y[near]), float(share @ self.seconds[near])

    def explained(self) -> float:
        """R² of the logarithm of the last RMSE, each record estimated from the others."""
        estimates = [np.log(self.estimate(x, i)[0][-1]) for i, x in enumerate(self.x)]
        return float(1 - np.var(self.y[:, -1] - estimates) / np.var(self.y[:, -1]))


@cache
def recorded_curves() -> Curves:
    """The recording in the repository."""
    return Curves(RECORDING)


def _setup(name: str, space: SearchSpace, seed: int) -> tuple[Any, Any]:
    import optuna
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    from crnn_search.tuning.scheduler import Asha
    from crnn_search.tuning.searcher import StudySearcher

    if name == "ours":
        searcher: Any = StudySearcher(space)
    else:
        tpe = optuna.samplers.TPESampler(
            multivariate=True, group=True, constant_liar=True, seed=seed
        )
        sampler = tpe if name == "stock" else optuna.samplers.RandomSampler(seed=seed)
        searcher = OptunaSearch(space.suggest, metric=METRIC, mode="min", sampler=sampler)
    limits = {"grace_period": 1, "reduction_factor": 3}
    if name == "stock":
        return searcher, ASHAScheduler("epoch", METRIC, "min", max_t=EPOCHS, **limits)
    return searcher, Asha(EPOCHS, 1, 3)


class Step(NamedTuple):
    """An epoch that ended at a simulated time, with its seconds and validation RMSE."""

    now: float
    number: int
    epoch: int
    seconds: float
    validation_rmse: float


def replay(searcher: Any, scheduler: Any, trials: int, workers: int) -> Iterator[Step]:
    """Let a searcher and a scheduler search on recorded curves, with a simulated clock.

    A free worker starts a trial, or its next epoch, at once.
    """
    running: list[tuple[float, int, Any]] = []
    started, now = 0, 0.0
    while started < trials or running:
        while started < trials and len(running) < workers:
            trial = _start(searcher, str(started))
            scheduler.on_trial_add(None, trial)
            heapq.heappush(running, (now + trial.epoch_s, started, trial))
            started += 1
        now, number, trial = heapq.heappop(running)
        trial.epoch += 1
        rmse = float(trial.curve[trial.epoch - 1])
        result = epoch_result(trial.epoch, rmse).to_dict() | {"training_iteration": trial.epoch}
        if scheduler.on_trial_result(None, trial, result) == "CONTINUE":
            searcher.on_trial_result(trial.trial_id, result)
            heapq.heappush(running, (now + trial.epoch_s, number, trial))
        else:
            scheduler.on_trial_complete(None, trial, result)
            searcher.on_trial_complete(trial.trial_id, result)
        yield Step(now, number, trial.epoch, trial.epoch_s, rmse)


def _start(searcher: Any, trial_id: str) -> SimpleNamespace:
    suggested = searcher.suggest(trial_id)
    config = suggested["trial"]["config"] if "trial" in suggested else suggested
    name = suggested["trial"]["name"] if "trial" in suggested else trial_id
    searched = {key: value for key, value in config.items() if key in PARAMETERS}
    whole = TrialConfig.from_dict(searched).to_dict()  # stock adds Optuna's own names
    curve, epoch_s = recorded_curves().estimate(np.array(features(whole)))
    trial = {"trial": {"name": name}}
    return SimpleNamespace(trial_id=trial_id, config=trial, curve=curve, epoch_s=epoch_s, epoch=0)


def quiet() -> None:
    """Show no warnings of this process: Optuna has one for each search."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def search(name: str, seed: int) -> list[float]:
    """One search; the best full-budget RMSE of its first 25, 50 and 100 trials."""
    changes = {"search.seed": seed, "search.trials": TRIALS, "search.max_epochs": EPOCHS}
    space = load_space(SPACE, [f"{key}={value}" for key, value in changes.items()])
    space = dataclasses.replace(space, first=())
    searcher, scheduler = _setup(name, space, seed)
    full = {
        step.number: step.validation_rmse
        for step in replay(searcher, scheduler, TRIALS, WORKERS)
        if step.epoch == EPOCHS
    }
    return [min(rmse for number, rmse in full.items() if number < mark) for mark in MARKS]


def interval(values: list[float], rng: np.random.Generator) -> list[float]:
    """95 % interval of the mean, by bootstrap."""
    draws = rng.choice(np.array(values), (10_000, len(values))).mean(1)
    return [float(q) for q in np.quantile(draws, [0.025, 0.975])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    seeds = range(arguments.repeats)
    found: dict[str, list[list[float]]] = {}
    with ProcessPoolExecutor(arguments.processes, initializer=quiet) as pool:
        for name in SETUPS:
            found[name] = list(pool.map(search, [name] * len(seeds), seeds))
    rng = np.random.default_rng(0)
    curves = recorded_curves()
    results: dict[str, Any] = {
        "recorded": len(curves.x),
        "lowest_recorded": float(np.exp(curves.y[:, -1].min())),
        "explained_by_neighbours": curves.explained(),
        "repeats": len(seeds),
        "best_after": {},
        "stock_minus_ours": {},
        "random_minus_ours": {},
    }
    for index, mark in enumerate(MARKS):
        column = {name: [row[index] for row in rows] for name, rows in found.items()}
        results["best_after"][mark] = {
            name: {"mean": statistics.fmean(values), "interval": interval(values, rng)}
            for name, values in column.items()
        }
        for other in ("stock", "random"):
            gaps = [a - b for a, b in zip(column[other], column["ours"], strict=True)]
            results[f"{other}_minus_ours"][mark] = {
                "mean": statistics.fmean(gaps), "interval": interval(gaps, rng),
            }  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
