"""What TensorBoard's HParams shows: the searched hyperparameters, and figures of a trial's end."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams import summary_v2 as api
from tensorboard.plugins.hparams.api_pb2 import (
    STATUS_FAILURE,
    STATUS_SUCCESS,
    Experiment,
    HParamInfo,
    MetricInfo,
    MetricName,
)
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

from crnn_search.hyperparameters import ImageShape
from crnn_search.spaces.domains import Choice, Domain, Fixed, FloatRange, IntRange, ListOf
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage.ledger import is_cut
from crnn_search.storage.trial import Trial, TrialRecord, TrialState

FULL_BUDGET, STOPPED, RETRAINED = (
    "trial/rmse_full_budget", "trial/rmse_where_stopped", "trial/train_rmse_retrained",
)  # fmt: skip
"""A trial has only one of these: values of different budgets or data never share a column."""

METRICS = {
    FULL_BUDGET: "validation RMSE, full budget",
    STOPPED: "validation RMSE where stopped",
    RETRAINED: "train RMSE, retrained",
    "trial/state": "state: 1 completed, 0 stopped early, -1 failed, -2 cut",
    "trial/epochs": "epochs",
    "trial/parameters": "parameters",
    "trial/seconds": "seconds",
}
"""The tag of each figure, and its name for users."""

SHOWN = 5
"""TensorBoard shows so many hyperparameters at first: those that are said to differ, by name."""

STATES = {TrialState.COMPLETE: 1.0, TrialState.PRUNED: 0.0, TrialState.FAIL: -1.0}
CUT = -2.0
"""The end of the search cut the trial: no scheduler stopped it."""


def experiment(space: SearchSpace) -> Summary:
    """Which hyperparameters are searched, and what the figures are.

    First the learning rate, then lists, then the others in the space's order.
    """
    columns: dict[str, api.Domain | None] = {}
    for name, domain in space.space.items():
        columns |= _columns(name, domain)
    order = list(space.space)
    first = sorted(
        columns.keys() & space.space.keys(),
        key=lambda name: (name != "learning_rate", columns[name] is not None, order.index(name)),
    )[:SHOWN]
    infos = [HParamInfo(name=name, differs=name in first) for name in columns]
    for info in infos:
        if found := columns[info.name]:
            found.update_hparam_info(info)
    metrics = [
        MetricInfo(name=MetricName(tag=tag), display_name=name) for tag, name in METRICS.items()
    ]
    content = Experiment(hparam_infos=infos, metric_infos=metrics, time_created_secs=time.time())
    return _summary(metadata.EXPERIMENT_TAG, HParamsPluginData(experiment=content))


def session_start(space: SearchSpace, trial: Trial) -> Summary:
    """The searched hyperparameters of a trial."""
    return api.hparams_pb(searched_values(space, trial.config.to_dict()), trial_id=trial.name)


def session_end(record: TrialRecord) -> Summary:
    """That a trial has ended, or failed."""
    status = STATUS_FAILURE if record.state == TrialState.FAIL else STATUS_SUCCESS
    ended = SessionEndInfo(status=status, end_time_secs=time.time())
    return _summary(metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=ended))


def searched_values(space: SearchSpace, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a flat configuration has for each searched hyperparameter, as TensorBoard takes it.

    A list becomes a text such as `16-32-64`, its length if that is searched, and its items, with
    the names that they have in Optuna: `conv_channels.length`, `conv_channels.0`.
    """
    values: dict[str, Any] = {}
    for name, domain in space.space.items():
        value = config[name]
        if isinstance(domain, Fixed):
            continue
        if not isinstance(value, list | tuple):
            values[name] = value
            continue
        values[name] = "-".join(map(str, value))
        columns = _columns(name, domain)
        numbers = {f"{name}.length": len(value)}
        numbers |= {f"{name}.{place}": item for place, item in enumerate(value)}
        values |= {column: number for column, number in numbers.items() if column in columns}
    return values


def figures(record: TrialRecord, shape: ImageShape) -> dict[str, float]:
    """The figures of a trial that ended, by tag."""
    trial, last = record.trial, record.last_rmse
    values: dict[str, float | None] = {
        FULL_BUDGET: last if record.state == TrialState.COMPLETE else None,
        STOPPED: last if record.state == TrialState.PRUNED else None,
        RETRAINED: _root(record.train_loss[-1]) if trial.all_images and record.epochs else None,
        "trial/state": CUT if is_cut(record) else STATES.get(record.state),
        "trial/epochs": record.epochs,
        "trial/parameters": trial.config.model.parameter_count(shape),
        "trial/seconds": record.seconds,
    }
    return {tag: value for tag, value in values.items() if value is not None}


def _summary(tag: str, data: HParamsPluginData) -> Summary:
    content = metadata.create_summary_metadata(data)
    return Summary(value=[Summary.Value(tag=tag, metadata=content, tensor=metadata.NULL_TENSOR)])


def _root(value: float | None) -> float | None:
    return None if value is None else math.sqrt(value)


def _columns(name: str, domain: Domain) -> dict[str, api.Domain | None]:
    """The columns of a hyperparameter in HParams, with their values as far as they are known."""
    if isinstance(domain, Fixed):
        return {}
    if isinstance(domain, IntRange):
        return {name: api.IntInterval(domain.low, domain.high)}
    if isinstance(domain, FloatRange):
        return {name: api.RealInterval(domain.low, domain.high)}
    if isinstance(domain, ListOf):
        columns: dict[str, api.Domain | None] = {name: None}
        shortest, longest = domain.min_length, domain.max_length
        if shortest < longest:
            columns[f"{name}.length"] = api.IntInterval(shortest, longest)
        items = [_columns(f"{name}.{place}", domain.item) for place in range(longest)]
        return columns | {column: found for item in items for column, found in item.items()}
    assert isinstance(domain, Choice)
    if not any(isinstance(option, tuple) for option in domain.options):
        return {name: api.Discrete(list(domain.options))}
    lists = [option for option in domain.options if isinstance(option, tuple)]
    return {name: None} | _choice_columns(name, lists)


def _choice_columns(name: str, lists: list[tuple[Any, ...]]) -> dict[str, api.Domain | None]:
    """The columns for lengths and items of a choice of lists."""
    lengths = [len(option) for option in lists]
    columns: dict[str, api.Domain | None] = {}
    if min(lengths) < max(lengths):
        columns[f"{name}.length"] = api.IntInterval(min(lengths), max(lengths))
    for place in range(max(lengths)):
        items = [option[place] for option in lists if len(option) > place]
        columns[f"{name}.{place}"] = api.IntInterval(min(items), max(items))
    return columns
