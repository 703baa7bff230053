"""The figures of a search, of its ended and running trials: rows, incumbents, rungs, compute."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from crnn_search.errors import ConfigError
from crnn_search.hyperparameters import PARAMETERS, ImageShape
from crnn_search.results.schema import Axis, Incumbent, Rung, TrialRow, Untrained
from crnn_search.spaces.domains import Choice, Domain, Fixed, ListOf
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage import ledger
from crnn_search.storage.trial import TrialRecord, TrialState

RUNNING = "running"

STATES = ("completed", "stopped", "cut", "failed", RUNNING)
"""The words for a trial's state."""


def rows(
    trials: Iterable[TrialRecord],
    space: SearchSpace,
    shape: ImageShape | None,
    ms_per_sequence: Mapping[str, float],
) -> list[TrialRow]:
    """A row for each trial, by number.

    shape: of every image, None if it is not known. ms_per_sequence: by the number of a trial.
    """
    ordered = sorted(trials, key=lambda record: record.trial.number)
    return [_row(record, space, shape, ms_per_sequence) for record in ordered]


def _row(
    record: TrialRecord,
    space: SearchSpace,
    shape: ImageShape | None,
    ms_per_sequence: Mapping[str, float],
) -> TrialRow:
    config = record.trial.config.to_dict()
    named = {name: config[name] for name in space.space}
    return TrialRow(
        number=record.trial.number,
        state=state_of(record),
        reason=record.reason,
        epochs=record.epochs,
        validation_rmse=record.last_rmse,
        validation_rmse_by_epoch=list(record.validation_rmse),
        parameters=_parameters(record, shape),
        ms_per_sequence=ms_per_sequence.get(str(record.trial.number)),
        seconds=round(record.seconds, 3),
        core_seconds=round(record.core_seconds, 3),
        gpu_seconds=round(record.gpu_seconds, 3),
        config=named,
        values={axis: value(config) for axis, _, value in _axes(space)},
    )


def state_of(record: TrialRecord) -> str:
    """One of `STATES`."""
    if not record.ended:
        return RUNNING
    return "cut" if ledger.is_cut(record) else ledger.WORDS[record.state]


def axes(space: SearchSpace) -> list[Axis]:
    """The searched hyperparameters, in the order of the space."""
    return [Axis(name=name, log=log) for name, log, _ in _axes(space)]


def _axes(space: SearchSpace) -> Iterator[tuple[str, bool, Callable[[Mapping[str, Any]], Any]]]:
    """Name, scale and value, of a configuration, of each searched hyperparameter."""
    for name, domain in space.space.items():
        if isinstance(domain, ListOf):
            yield from _list_axes(name, domain)
        elif not isinstance(domain, Fixed):
            yield name, bool(getattr(domain, "log", False)), functools.partial(_value, name)


def _list_axes(
    name: str, domain: ListOf
) -> Iterator[tuple[str, bool, Callable[[Mapping[str, Any]], Any]]]:
    """A list has up to two: its depth and its mean."""
    if domain.min_length < domain.max_length:
        yield f"{name} depth", False, lambda config: len(config[name])
    if not isinstance(domain.item, Fixed):
        log = bool(getattr(domain.item, "log", False))
        if domain.max_length == 1:
            yield name, log, lambda config: config[name][0]
        else:
            yield f"{name} mean", log, lambda config: round(statistics.fmean(config[name]), 3)


def _value(name: str, config: Mapping[str, Any]) -> Any:
    """A hyperparameter as a number or a text: a list becomes `16-32-64`."""
    value = config[name]
    if isinstance(value, list):
        return "-".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else value


def _parameters(record: TrialRecord, shape: ImageShape | None) -> int | None:
    if shape is None:
        return None
    try:
        return record.trial.config.model.parameter_count(shape)
    except ConfigError:  # the images are others than those it was trained on
        return None


def incumbents(trials: Sequence[TrialRecord], order: Sequence[int]) -> list[Incumbent]:
    """Each best full-budget trial so far. order: numbers of the ended trials as they ended."""
    by_number = {record.trial.number: record for record in trials if record.ended}
    ended = [by_number[number] for number in order if number in by_number]
    found: list[Incumbent] = []
    cores = gpus = 0.0
    for count, record in enumerate(ended, start=1):
        cores, gpus = cores + record.core_seconds, gpus + record.gpu_seconds
        rmse = record.last_rmse
        if record.state != TrialState.COMPLETE or rmse is None:
            continue
        if not found or rmse < found[-1]["validation_rmse"]:
            found.append(
                Incumbent(
                    trials=count,
                    core_seconds=round(cores, 3),
                    gpu_seconds=round(gpus, 3),
                    number=record.trial.number,
                    validation_rmse=rmse,
                )
            )
    return found


def rungs(trials: Sequence[TrialRecord], space: SearchSpace) -> list[Rung]:
    """What happened at each rung below the full budget."""
    search, found = space.search, []
    epochs = search.grace_epochs
    while epochs < search.max_epochs:
        reached = [r for r in trials if len(r.validation_rmse) >= epochs]
        values = [v for r in reached if (v := r.validation_rmse[epochs - 1]) is not None]
        found.append(
            Rung(
                epochs=epochs,
                reached=len(reached),
                continued=sum(len(r.validation_rmse) > epochs for r in reached),
                best=min(values, default=None),
                median=statistics.median(values) if values else None,
            )
        )
        epochs *= search.reduction_factor
    return found


def untrained(trials: Sequence[TrialRecord], *, cut: bool) -> Untrained:
    """What ended trials would have trained at their full budget, each at its own pace.

    cut: of those that ended because the search did; else of those that were stopped early.
    """
    wanted = [r for r in trials if r.state == TrialState.PRUNED and ledger.is_cut(r) == cut]
    left = [(record.trial.epochs - record.epochs) for record in wanted]

    def cost(key: str) -> float:
        pairs = zip(wanted, left, strict=True)
        spent = sum(getattr(r, key) / max(1, r.epochs) * epochs for r, epochs in pairs)
        return round(float(spent), 3)

    return Untrained(
        trials=len(wanted),
        epochs=sum(left),
        core_seconds=cost("core_seconds"),
        gpu_seconds=cost("gpu_seconds"),
    )


def at_border(space: SearchSpace, config: Mapping[str, Any]) -> list[str]:
    """The searched hyperparameters whose value is at an end of its range, with the range.

    Not where the range cannot be wider: at the hyperparameter's own bound.
    """
    found = []
    for name, domain in space.space.items():
        found += _borders(name, domain, config[name])
    return found


def _borders(name: str, domain: Domain, value: Any) -> list[str]:
    rule = PARAMETERS[name]
    if isinstance(domain, ListOf):
        depth = (domain.min_length, domain.max_length)
        ends = [f"{name}: its depth, {len(value)}, is the {word} of {depth[0]} to {depth[1]}"
                for word, end, last in (("least", depth[0], 1), ("most", depth[1], rule.max_length))
                if depth[0] < depth[1] and len(value) == end != last]  # fmt: skip
        items = {text for item in value for text in _borders(name, domain.item, item)}
        return ends + sorted(items)
    if isinstance(domain, Choice):
        return _choice_borders(name, domain, value)
    low, high = getattr(domain, "low", None), getattr(domain, "high", None)
    if low is None or high is None or low == high:
        return []
    near = _near(low, high, log=bool(getattr(domain, "log", False)), whole=rule.kind != "float")
    return [
        f"{name}: {value:g} is at the {word} end of {low:g} to {high:g}"
        for word, end, last in (("low", low, rule.low), ("high", high, rule.high))
        if end != last and near(value, end)
    ]


def _choice_borders(name: str, domain: Choice, value: Any) -> list[str]:
    """Of three numbers or more: with two, one of them always wins."""
    rule, options = PARAMETERS[name], domain.options
    if len(options) < 3 or any(type(option) not in {int, float} for option in options):
        return []
    ends = (("lowest", min(options), rule.low), ("highest", max(options), rule.high))
    among = ", ".join(f"{option:g}" for option in sorted(options))
    return [
        f"{name}: {value:g} is the {word} of {among}"
        for word, end, last in ends
        if value == end != last
    ]


def _near(low: float, high: float, *, log: bool, whole: bool) -> Callable[[float, float], bool]:
    """Whether a value is at an end of a range: equal, or within a hundredth of it."""
    if whole:
        return lambda value, end: value == end
    scale = math.log if log else float
    width = scale(high) - scale(low)
    return lambda value, end: abs(scale(value) - scale(end)) <= 0.01 * width
