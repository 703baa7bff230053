"""The figures of the test result: scores, errors of steps, longer sequences, what the data are.

Shapes: `K` seeds, `S` sequences, `T` time steps, `I` images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from crnn_search.data.digits import TRAINING_IMAGES
from crnn_search.data.sequences import SequenceTable
from crnn_search.data.task import Task
from crnn_search.hyperparameters import TrialConfig
from crnn_search.results import scores
from crnn_search.results.schema import StepError, Steps


def scores_of(
    predictions: Mapping[str, Tensor], winner: str, network: str, task: Task, table: SequenceTable
) -> dict[str, Any]:
    """The entries `test`, `baselines` and `improvement` of a report.

    predictions: by name, float `(K, S)`. winner, network: the names of the winner and of the
    network that it is compared with.
    """
    sums = task.info.sums
    by_name = {
        name: scores.score(list(found), table, sums=sums).to_dict()
        for name, found in predictions.items()
    }
    test = by_name.pop(winner)
    ours, theirs = predictions[winner], predictions[network]
    return {
        "test": test
        | {
            "exported_rmse": test["rmse_by_seed"][0],
            "images": _image_count(task, table),
            "groups": None if table.groups is None else len(table.groups.unique()),
        },
        "baselines": by_name,
        "improvement": scores.paired_difference(list(theirs), list(ours), table).to_dict(),
    }


def ensemble(predictions: Tensor, table: SequenceTable, *, sums: bool) -> dict[str, Any] | None:
    """The score of the mean of the predictions of networks that differ in their seeds alone.

    With the number of `networks`, and as `improvement` the mean RMSE of the single ones less that
    of the ensemble: never below 0. Intervals are for these networks. None with one network.

    predictions: float `(K, S)`.
    """
    if len(predictions) < 2:
        return None
    single, mean = list(predictions), [scores.mean_prediction(list(predictions))]
    improvement = scores.paired_difference(single, mean, table, other_seeds=False)
    return {
        **scores.score(mean, table, sums=sums).to_dict(),
        "networks": len(single),
        "improvement": improvement.to_dict(),
    }


def _image_count(task: Task, table: SequenceTable) -> int:
    """How many images the test sequences are drawn from, or have."""
    if task.info.sums:
        return len(task.images) - TRAINING_IMAGES
    steps = torch.arange(table.indices.shape[1])
    return len(table.indices[steps < table.lengths[:, None]].unique())


def steps(running: Tensor, table: SequenceTable, values: Tensor) -> Steps:
    """Errors of the steps of running predictions, by position and by the image's value.

    A step is the prediction after an image less that before it, or less 0 before the first one. Its
    error is the step less what the image adds to the target.

    running: float `(S, T)`. values: what each image adds, `(I,)`.
    """
    places = torch.arange(table.indices.shape[1])
    real = places < table.lengths[:, None]
    running = running[:, : len(places)].double()
    truth = values[table.indices.long()].double()
    errors = (running - F.pad(running[:, :-1], (1, 0)) - truth)[real].numpy()
    position = (places + 1).expand_as(real)[real].numpy()
    value = truth[real].long().numpy()
    return {"by_position": _errors_by(position, errors), "by_digit": _errors_by(value, errors)}


def _errors_by(kinds: np.ndarray[Any, Any], errors: np.ndarray[Any, Any]) -> dict[str, StepError]:
    """Errors by kind, a whole number."""
    found = {}
    for kind in np.unique(kinds).tolist():
        some = errors[kinds == kind]
        rmse = math.sqrt(float(np.square(some).mean()))
        found[str(kind)] = StepError(steps=len(some), mean=float(some.mean()), rmse=rmse)
    return found


def longer(found: Mapping[str, Tensor], table: SequenceTable, start: int) -> dict[str, Any]:
    """The scores of longer sequences, by name. start: where they start in `found`."""
    return {
        name: scores.score(list(values[:, start:]), table, sums=True).to_dict()
        for name, values in found.items()
        if name != "mean_guess"  # the mean of other lengths
    }


def data(task: Task, table: SequenceTable, config: TrialConfig, longer: str) -> dict[str, Any]:
    """What is in a data set of the user's own. longer: the rule for longer sequences."""
    known, limit = task.known_table(), config.training.max_sequence_length
    return {
        "facts": [[name, value] for name, value in task.facts if name != "warning"],
        "warnings": [value for name, value in task.facts if name == "warning"],
        "targets": {
            "training and validation": _distribution(known.targets),
            "test": _distribution(table.targets),
        },
        "longer": longer,
        "longer_sequences": int((known.lengths > limit).sum()),
    }


def _distribution(targets: Tensor) -> dict[str, Any]:
    values = targets.double().numpy()
    low, first, median, third, high = np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).tolist()
    return {
        "sequences": len(values), "mean": float(values.mean()), "std": float(values.std()),
        "min": low, "q25": first, "median": median, "q75": third, "max": high,
    }  # fmt: skip
