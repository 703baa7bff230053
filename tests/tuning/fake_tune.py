"""Ray Tune's part of a stage without Ray: one trial after another, in the order of Tune's calls.

Trials train nothing: an objective gives their validation RMSE, and some of them have accidents.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray.exceptions
from ray import cloudpickle, tune
from ray.tune import PlacementGroupFactory
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.utils import flatten_dict

from crnn_search.storage.trial import Trial
from crnn_search.training.metrics import EpochMetrics
from crnn_search.tuning.callback import RunCallback
from crnn_search.tuning.context import Context
from crnn_search.tuning.epoch_result import EpochResult


@dataclass
class FakeTune:
    """Stands for `tuner._fit`.

    accident: what happens to a trial in an epoch: `nan`, `error`, `death` or `memory`, or None. It
    gets the trial, the epoch and how often the trial was retried.
    folder: of Tune's own files. saved: the checkpoints: epochs that each trial has trained.
    """

    folder: Path
    accident: Callable[[Trial, int, int], str | None]
    saved: dict[str, int] = field(default_factory=dict)
    _ids: Any = field(default_factory=itertools.count)

    def fit(self, context: Context, config: tune.TuneConfig, callback: RunCallback) -> None:
        """Run the searcher's trials until it has no more."""
        searcher, scheduler = config.search_alg, config.scheduler or FIFOScheduler()
        while True:
            trial_id = f"tune-{next(self._ids)}"
            suggested = searcher.suggest(trial_id)
            if not isinstance(suggested, dict):
                return
            trial = SimpleNamespace(
                trial_id=trial_id,
                config=suggested,
                last_result=None,
                error_file=None,
                pickled_error_file=None,
                placement_group_factory=PlacementGroupFactory([{"CPU": 1}]),
                run_metadata=SimpleNamespace(),
            )
            self._run(trial, searcher, scheduler, callback)

    def _run(self, trial: Any, searcher: Any, scheduler: Any, callback: RunCallback) -> None:
        ours = Trial.from_dict(trial.config["trial"])
        record, restored = callback.records[ours.name], ours.name in self.saved
        scheduler.on_trial_add(None, trial)
        callback.on_step_begin(0, [trial])
        callback.on_trial_start(0, [trial], trial)
        decision = TrialScheduler.CONTINUE
        while decision != TrialScheduler.STOP:
            epoch = self.saved[ours.name] if restored else self.saved.get(ours.name, 0) + 1
            accident = None if restored else self.accident(ours, epoch, len(record.retries))
            if accident == "death":
                self._die(trial, searcher, scheduler, callback)
                return
            step = self._step(ours, epoch, accident, restored)
            restored = False
            result = step.to_dict()
            decision = TrialScheduler.STOP
            if not step.done:
                decision = scheduler.on_trial_result(None, trial, flatten_dict(result))
            if decision != TrialScheduler.STOP:
                searcher.on_trial_result(trial.trial_id, flatten_dict(result))
            callback.on_trial_result(0, [trial], trial, result)
            trial.last_result = result
            callback.on_step_end(0, [trial])
        last = flatten_dict(trial.last_result)
        scheduler.on_trial_complete(None, trial, last)
        searcher.on_trial_complete(trial.trial_id, result=last)
        callback.on_trial_complete(0, [trial], trial)
        callback.on_step_end(0, [trial])

    def _die(self, trial: Any, searcher: Any, scheduler: Any, callback: RunCallback) -> None:
        """A trial's process dies."""
        error = self.folder / f"{trial.trial_id}.pkl"
        error.write_bytes(cloudpickle.dumps(ray.exceptions.ActorDiedError()))
        trial.error_file = trial.pickled_error_file = str(error)
        scheduler.on_trial_error(None, trial)
        searcher.on_trial_complete(trial.trial_id, error=True)
        callback.on_trial_error(0, [trial], trial)
        callback.on_step_end(0, [trial])

    def _step(self, trial: Trial, epoch: int, accident: str | None, restored: bool) -> EpochResult:
        """What the trial's process gives for an epoch; its state is saved unless it failed."""
        step = EpochResult(epoch - 1, 0.5, "here", "cpu", str(trial.arithmetic), done=True)
        if accident == "error":
            return replace(step, failure="ValueError: a fault")
        if accident == "memory":
            return replace(step, out_of_memory="the device is full")
        rmse = math.nan if accident == "nan" else objective(trial, epoch)
        metrics = EpochMetrics(
            epoch=epoch,
            train_loss=rmse**2,
            validation_rmse=rmse,
            exact_sum_rate=0.0,
            sequences_per_s=1.0,
            learning_rate=trial.config.training.learning_rate,
            peak_memory_mb=1.0,
            seconds=0.5,
        )
        step = replace(step, epoch=epoch, metrics=metrics, restored=restored)
        if accident == "nan":
            return replace(step, failure="diverged: NaN")
        self.saved[trial.name] = epoch
        checkpoint = f"{trial.name}/epoch-{epoch:04d}.safetensors"
        return replace(step, checkpoint=checkpoint, done=epoch >= trial.epochs)


def objective(trial: Trial, epoch: int) -> float:
    """A validation RMSE that depends on the configuration, the seed and the epoch."""
    rate = abs(math.log(trial.config.training.learning_rate / 0.003))
    return rate + trial.config.model.dropout + trial.seed % 100 / 1000 + 1 / epoch
