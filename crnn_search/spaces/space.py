"""A valid search space: what is searched, and how a sample becomes a trial's configuration.

A hyperparameter that the space does not name has `TrialConfig`'s default. `spaces.file` reads
search space files. Only `SearchSpace.distributions` imports Optuna.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import yaml

from crnn_search.errors import ConfigError
from crnn_search.hyperparameters import (
    LARGEST_SHAPE,
    MNIST_SHAPE,
    PARAMETERS,
    ImageShape,
    TrialConfig,
    unknown_name,
)
from crnn_search.spaces.domains import (
    Domain,
    Fixed,
    RandomSuggester,
    Suggester,
    canonical,
    to_json,
)
from crnn_search.spaces.sections import (
    LONGEST,
    SECTIONS,
    ResourcesSpec,
    RetrainSpec,
    SearchSpec,
    TaskSpec,
)
from crnn_search.text import shown

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True)
class Images:
    """What a space has to fit. data: identifies the task's sequences. longest: in images."""

    shape: ImageShape
    longest: int
    data: str

    @classmethod
    def of(cls, task: TaskSpec) -> Images:
        """Those of MNIST's sums; of a data set that is not read yet, the largest possible."""
        if task.data is None:
            return cls(MNIST_SHAPE, task.max_digits, f"mnist_sums/{task.max_digits}")
        return cls(LARGEST_SHAPE, LONGEST, "")


@dataclass(frozen=True)
class SearchSpace:
    """A whole search space file. `load_space` and `parse_space` return valid ones only.

    images: of a data set, once `fitting.fit` was called.
    """

    task: TaskSpec
    search: SearchSpec
    retrain: RetrainSpec
    resources: ResourcesSpec
    first: tuple[dict[str, Any], ...]
    space: Mapping[str, Domain]
    images: Images

    @property
    def shape(self) -> ImageShape:
        """The shape of every image."""
        return self.images.shape

    def for_data(self, name: str) -> SearchSpace:
        """The space for a data set of the user's own in place of MNIST's sums."""
        task = TaskSpec(data=name, longer="drop")
        return replace(self, task=task, images=Images.of(task))

    def suggest(self, trial: Suggester) -> dict[str, Any]:
        """The flat configuration of an Optuna `Trial` or `FixedTrial`: the space's names only."""
        return {name: to_json(domain.suggest(trial, name)) for name, domain in self.space.items()}

    def to_params(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Optuna's parameter values of a configuration, which may lack some names.

        Raises:
            ConfigError: the configuration is not in the space.
        """
        if problems := self.problems_of(config):
            raise ConfigError(problems)
        params: dict[str, Any] = {}
        for name in self._named(config):
            params |= self.space[name].to_params(name, canonical(PARAMETERS[name], config[name]))
        return params

    def distributions(self, config: Mapping[str, Any]) -> dict[str, BaseDistribution]:
        """Optuna's distributions of exactly those parameters that `to_params` returns.

        Raises:
            ConfigError: the configuration is not in the space.
        """
        from optuna.trial import FixedTrial

        trial = FixedTrial(self.to_params(config))
        for name in self._named(config):
            self.space[name].suggest(trial, name)
        return trial.distributions

    def problems_of(self, config: Mapping[str, Any]) -> list[str]:
        """What in a configuration, which may lack some names, is not in the space.

        A name that the space lacks must have its default, since every trial has that.
        """
        return [f"{name}: {message}" for name, message in problems(config, self.space)]

    @property
    def searched(self) -> tuple[str, ...]:
        """The names of the hyperparameters that are not fixed."""
        return tuple(name for name in self.space if not isinstance(self.space[name], Fixed))

    def infeasible_share(self) -> float:
        """The share of sampled configurations, 0 to 1, that are infeasible.

        Those that predict too slowly are not among them: that is measured by a search only.
        """
        reasons = _reasons(self.space, self.shape, self.search.max_parameters)
        return sum(reason is not None for reason in reasons) / DRAWS

    def sections(self) -> dict[str, dict[str, Any]]:
        """The values of the sections `SECTIONS`, by name of the section."""
        return {name: getattr(self, name).model_dump(exclude_none=True) for name in SECTIONS}

    def _named(self, config: Mapping[str, Any]) -> list[str]:
        return [name for name in self.space if name in config]


def sample(space: SearchSpace, seed: int, count: int) -> list[dict[str, Any]]:
    """`count` random configurations, as of `SearchSpace.suggest`; equal seeds give equal ones."""
    trial = RandomSuggester(seed)
    return [space.suggest(trial) for _ in range(count)]


def feasible(space: SearchSpace, configurations: Iterable[Mapping[str, Any]]) -> list[TrialConfig]:
    """Those of some flat configurations that can be trained."""
    found = []
    for values in configurations:
        try:
            config = TrialConfig.from_dict(values)
            config.model.check(space.shape, space.search.max_parameters)
        except ConfigError:
            continue
        found.append(config)
    return found


def to_yaml(space: SearchSpace) -> str:
    """The space as launched, with overrides and defaults: `parse_space` returns an equal one."""
    values: dict[str, Any] = space.sections()
    values["first"] = list(space.first)
    values["space"] = {name: domain.to_yaml() for name, domain in space.space.items()}
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=100)


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    def ignore_aliases(self, data: Any) -> bool:
        return True  # `Document` reads none


DRAWS = 200
"""Configurations that are sampled to find out which are infeasible."""


def why_infeasible(
    space: Mapping[str, Domain], shape: ImageShape, max_parameters: int | None
) -> str | None:
    """Why none of `DRAWS` sampled configurations can be trained; None if one can."""
    first = None
    for reason in _reasons(space, shape, max_parameters):
        if reason is None:
            return None
        first = first or reason
    return first


def _reasons(
    space: Mapping[str, Domain], shape: ImageShape, max_parameters: int | None
) -> Iterator[str | None]:
    """Of each of `DRAWS` sampled configurations why it is infeasible, or None.

    Its convolutions leave no pixels of images of `shape`, its network is too large, or its values
    do not fit each other.
    """
    trial = RandomSuggester(0)
    for _ in range(DRAWS):
        reason = None
        try:
            values = {name: domain.suggest(trial, name) for name, domain in space.items()}
            TrialConfig.from_dict(values).model.check(shape, max_parameters)
        except ConfigError as error:
            reason = str(error)
        yield reason


def problems(
    config: Mapping[str, Any], space: Mapping[str, Domain | None]
) -> Iterator[tuple[str, str]]:
    """Name and message of each value that is not in the space. A domain None has all values."""
    for name, value in config.items():
        if name not in PARAMETERS:
            yield name, unknown_parameter(name)
            continue
        rule, domain = PARAMETERS[name], space.get(name, _default(name))
        if not rule.accepts(value):
            yield name, f"must be {rule.describe()}, got {shown(value)}"
        elif domain and not domain.contains(canonical(rule, value)):
            hint = "" if name in space else " by default, as space does not name it"
            yield name, f"must be {domain.describe()}{hint}, got {shown(value)}"


def unknown_parameter(name: str) -> str:
    """The message for a name that is not a hyperparameter."""
    if name == "precision":
        return "moved to resources.precision: all trials of a run compute in the same precision"
    if name == "augmentation":
        return "is named affine now, for what it does"
    return unknown_name(name, PARAMETERS)


@functools.cache
def _default(name: str) -> Domain:
    return Fixed(canonical(PARAMETERS[name], TrialConfig.from_dict({}).to_dict()[name]))
