"""Trials, results and a stage's context, as the tests of this folder need them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from ray.tune import PlacementGroupFactory

from crnn_search.cluster.resources import Allocation
from crnn_search.data.digits import Digits
from crnn_search.data.mnist_sums import MnistSums
from crnn_search.hyperparameters import Arithmetic, ModelSpec, TrainingSpec, TrialConfig
from crnn_search.spaces.file import parse_space
from crnn_search.storage.journal import History, Journal
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import Trial, TrialRecord
from crnn_search.training.metrics import EpochMetrics
from crnn_search.tuning.context import Context
from crnn_search.tuning.epoch_result import EpochResult
from crnn_search.tuning.progress import Progress
from crnn_search.tuning.tune_trial import tune_config

SMALL = TrialConfig(
    ModelSpec(conv_channels=(4,), pooling=(4,), gru_sizes=(8,)), TrainingSpec(batch_size=32)
)
TRIAL = Trial("trial-0000", 0, SMALL, 5, 4, 1, 64, "mnist_sums/8")


def trial(number: int = 0, **changes: Any) -> Trial:
    """A trial of the search."""
    return dataclasses.replace(TRIAL, number=number, name=f"trial-{number:04d}", **changes)


def record(number: int, *validation_rmse: float | None, **fields: Any) -> TrialRecord:
    """A trial with these values, by epoch."""
    values = list(validation_rmse)
    return TrialRecord(
        trial(number), validation_rmse=values, train_loss=[1.0] * len(values), **fields
    )


def metrics(epoch: int, validation_rmse: float | None, train_loss: float = 1.0) -> EpochMetrics:
    """The metrics of an epoch."""
    return EpochMetrics(epoch, train_loss, validation_rmse, 0.25, 1.0, 0.1, 1.0, 2.0)


def step(epoch: int, validation_rmse: float | None = None, **fields: Any) -> EpochResult:
    """The result of a step; without metrics if there is no validation RMSE."""
    if validation_rmse is not None:
        fields = {"metrics": metrics(epoch, validation_rmse)} | fields
    where = {"node": "here", "device": "cpu", "arithmetic": "float32"}
    return EpochResult(epoch, 2.0, **{**where, **fields})


def result(epoch: int, validation_rmse: float | None = None, **fields: Any) -> dict[str, Any]:
    """The same as Tune carries it."""
    return {"training_iteration": epoch, **step(epoch, validation_rmse, **fields).to_dict()}


def tune_trial(own: Trial = TRIAL, trial_id: str = "tune-0", gpus: float = 0.0) -> Any:
    """A trial as Tune has it, with what this package reads of it; it has no error."""
    return SimpleNamespace(
        trial_id=trial_id,
        config=tune_config(own),
        last_result={},
        error_file=None,
        pickled_error_file=None,
        placement_group_factory=PlacementGroupFactory([{"CPU": 2, "GPU": gpus}]),
        run_metadata=SimpleNamespace(),
    )


def context(folder: Path, arithmetic: Arithmetic = Arithmetic()) -> Context:  # noqa: B008
    """A new run in a folder; `progress` is a mock."""
    run = RunFolder(folder)
    digits = Digits(torch.zeros(1, 28, 28, dtype=torch.uint8), torch.zeros(1, dtype=torch.uint8))
    return Context(
        run,
        parse_space("space: {}"),
        History(),
        Journal(run),
        MnistSums(digits, 8),
        Allocation(1, 0.0, 1),
        arithmetic,
        mock.create_autospec(Progress, instance=True),
    )


def notes(context: Context) -> list[str]:
    """The messages that the user got."""
    note: Any = context.progress.note
    return [call.args[0] for call in note.call_args_list]
