"""Ray's documented PyTorch recipe: a function trainable, a report and a checkpoint every epoch."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from ray import tune

from benchmarks.peers import recipe
from benchmarks.work import Trained, Work


def train(config: dict[str, Any]) -> None:
    """One trial, as the recipe writes it."""
    trained = recipe.train(Work(**config["work"]), config["seed"], config["num_workers"])
    for rmse, model, optimizer in trained:
        with tempfile.TemporaryDirectory() as folder:
            state = (model.state_dict(), optimizer.state_dict())
            torch.save(state, Path(folder) / "checkpoint.pt")
            tune.report({"rmse": rmse}, checkpoint=tune.Checkpoint.from_directory(folder))


class Clock(tune.Callback):  # type: ignore[misc]
    """Records when the results of each trial arrive at the driver."""

    def __init__(self) -> None:
        self.trials: dict[int, Trained] = {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        trained = self.trials.setdefault(trial.config["seed"], Trained([], []))
        trained.ends.append(time.time())
        trained.validation_rmse.append(result["rmse"])


def run(work: Work, num_workers: int = 0) -> list[Trained]:
    """Both trials at once, in fresh processes; Ray has been started."""
    clock = Clock()
    space = {
        "work": work.to_dict(),
        "num_workers": num_workers,
        "seed": tune.grid_search(list(work.seeds)),
    }
    # The package turns Tune's own loggers and snapshots off by variables; the recipe has them.
    stock = {k: v for k, v in os.environ.items() if not k.startswith("TUNE_")}
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, stock, clear=True):
        results = tune.Tuner(
            tune.with_resources(train, {"cpu": 1}),
            param_space=space,
            tune_config=tune.TuneConfig(metric="rmse", mode="min", reuse_actors=False),
            run_config=tune.RunConfig(storage_path=folder, callbacks=[clock], verbose=0),
        ).fit()
    if results.errors:
        raise results.errors[0]
    return [clock.trials[seed] for seed in work.seeds]
