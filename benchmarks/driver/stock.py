"""The driver with Ray's stock searcher, scheduler, loggers and snapshots."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import ray
from optuna.samplers import TPESampler
from ray import tune
from ray.tune import Callback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from benchmarks.driver.work import EPOCHS, SPACE, Marks, objective
from crnn_search.spaces.file import parse_space

METRIC = {"metric": "rmse", "mode": "min"}


class Reporter(tune.Trainable):  # type: ignore[misc]
    """A trial that trains nothing."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.hyperparameters, self.epoch = new_config, 0
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        pass

    def load_checkpoint(self, checkpoint: Any) -> None:
        pass

    def step(self) -> dict[str, Any]:
        self.epoch += 1
        rmse = objective(self.hyperparameters, self.epoch)
        return {"rmse": rmse, "done": self.epoch >= EPOCHS}


class Counter(Callback):  # type: ignore[misc]
    """Counts trials that ended. It has no state that Tune could pickle."""

    def __init__(self, marks: Marks) -> None:
        self.marks = marks

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.marks.add()

    def __getstate__(self) -> dict[str, Any]:
        return {}


def run(trials: int, every: int, folder: Path) -> dict[str, Any]:
    """Run a search and restore it; the marks, and the time to restore without and with Ray's."""
    marks = Marks(every)
    _start_ray()
    _tuner(trials, folder, Counter(marks)).fit()
    ray.shutdown()
    start = time.monotonic()
    _start_ray()
    ready = time.monotonic()
    resources = tune.with_resources(Reporter, {"cpu": 1})
    tune.Tuner.restore(str(folder / "stock"), resources).fit()
    end = time.monotonic()
    return {"rows": marks.rows, "resume_s": end - ready, "resume_all_s": end - start}


def _start_ray() -> None:
    ray.init("local", include_dashboard=False, log_to_driver=False)


def _tuner(trials: int, folder: Path, counter: Counter) -> tune.Tuner:
    space = parse_space(SPACE.format(trials=trials))
    sampler = TPESampler(multivariate=True, group=True, constant_liar=True)
    return tune.Tuner(
        tune.with_resources(Reporter, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(space.suggest, sampler=sampler, **METRIC),
            scheduler=ASHAScheduler(max_t=EPOCHS, grace_period=1, reduction_factor=3, **METRIC),
            num_samples=trials,
            max_concurrent_trials=2,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="stock", storage_path=str(folder), callbacks=[counter], verbose=0
        ),
    )
