"""A valid search space: what is searched, and how a sample becomes a trial's configuration.

A hyperparameter that the space does not name has `TrialConfig`'s default. `spaces.file` reads
search space files. Only `SearchSpace.distributions` imports Optuna.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from crnn_search.errors import ConfigError
from crnn_search.hyperparameters import (
    MNIST_SHAPE,
    PARAMETERS,
    ModelSpec,
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
from crnn_search.text import shown

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


SECTIONS = ("task", "search", "retrain", "resources")
"""The sections of a file beside `first` and `space`."""

MAX_TRIALS = 1_000_000


def _whole(low: int, high: int) -> Any:
    """The rule of a whole number within bounds."""
    return Field(ge=low, le=high, description=f"a whole number from {low} to {high}")


_Epochs = Annotated[int, _whole(1, 100_000)]
_Sequences = Annotated[int, _whole(1, 10_000_000)]
_Repeats = Annotated[int, _whole(1, 1000)]

MIN_SHARE, MAX_UNITS = 0.0001, 10_000
"""The least of a core or a GPU that Ray can allocate, and the most that a trial may ask for."""

_GPUS = (
    f"auto, 0, a number from {MIN_SHARE} to 1 or a whole number from 1 to {MAX_UNITS}, since Ray "
    "divides one GPU only"
)


class Section(BaseModel):
    """A section of the file. Each field's description is its rule in words."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class TaskSpec(Section):
    """What is learned. Each section raises pydantic's `ValidationError` for a bad value."""

    max_digits: Annotated[int, _whole(1, 64)] = 8


class SearchSpec(Section):
    """How many trials there are, and how long and on how many sequences they train."""

    trials: Annotated[int, _whole(1, MAX_TRIALS)] = 64
    max_epochs: _Epochs = 27
    grace_epochs: _Epochs = 1
    reduction_factor: Annotated[int, _whole(2, 1000)] = 3
    epoch_sequences: _Sequences = 60_000
    max_concurrent_trials: Literal["auto"] | Annotated[int, Field(ge=1, le=MAX_TRIALS)] = Field(
        default="auto", description=f"auto or a whole number from 1 to {MAX_TRIALS}"
    )
    seed: Annotated[int, _whole(0, 2**31)] = 0

    @field_validator("grace_epochs")
    @classmethod
    def _at_most_max_epochs(cls, value: int, info: ValidationInfo) -> int:
        longest = info.data.get("max_epochs", value)
        if value > longest:
            raise ValueError(f"must be at most max_epochs, which is {longest}, got {value}")
        return value


class RetrainSpec(Section):
    """How finalists are repeated and the winner is retrained."""

    epochs: _Epochs = 40
    seeds: _Repeats = 3
    finalists: _Repeats = 3
    epoch_sequences: _Sequences = 60_000


class ResourcesSpec(Section):
    """What one trial gets of a node, and how it computes. Fractions of a GPU are allowed.

    precision: `auto` is bfloat16 where every node computes in it natively, else float32.
    cpu_kernels: `auto` is on where every node can compile them.
    """

    cpus_per_trial: float = Field(
        default=1.0,
        ge=MIN_SHARE,
        le=MAX_UNITS,
        description=f"a number from {MIN_SHARE} to {MAX_UNITS}",
    )
    gpus_per_trial: Literal["auto"] | float = Field(default="auto", description=_GPUS)
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="one of auto, float32, bfloat16"
    )
    cpu_kernels: Literal["auto", "off"] = Field(default="auto", description="one of auto, off")

    @field_validator("gpus_per_trial")
    @classmethod
    def _can_be_allocated(cls, value: float | str) -> float | str:
        if isinstance(value, str) or value == 0 or MIN_SHARE <= value <= 1:
            return value
        if value.is_integer() and 1 <= value <= MAX_UNITS:
            return value
        raise ValueError(f"must be {_GPUS}, got {value:g}")

    @field_validator("cpu_kernels", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads `off` as false


@dataclass(frozen=True)
class SearchSpace:
    """A whole search space file. `load_space` and `parse_space` return valid ones only."""

    task: TaskSpec
    search: SearchSpec
    retrain: RetrainSpec
    resources: ResourcesSpec
    first: tuple[dict[str, Any], ...]
    space: Mapping[str, Domain]

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

    def infeasible_share(self) -> float:
        """The share of sampled networks, 0 to 1, whose convolutions leave no pixels."""
        return len(infeasible(self.space)) / DRAWS

    def sections(self) -> dict[str, dict[str, Any]]:
        """The values of the sections `SECTIONS`, by name of the section."""
        return {name: getattr(self, name).model_dump() for name in SECTIONS}

    def _named(self, config: Mapping[str, Any]) -> list[str]:
        return [name for name in self.space if name in config]


def check_sections(values: Mapping[str, Any]) -> None:
    """Check the values that `SearchSpace.sections` gave.

    Raises:
        KeyError: a section is missing.
        ValueError: a value is not valid.
    """
    specs: tuple[type[Section], ...] = (TaskSpec, SearchSpec, RetrainSpec, ResourcesSpec)
    for name, spec in zip(SECTIONS, specs, strict=True):
        try:
            spec.model_validate(values[name])
        except ValidationError as error:
            found = error.errors()[0]
            where = ".".join(map(str, (name, *found["loc"])))
            raise ValueError(f"{where}: {found['msg']}") from None


def sample(space: SearchSpace, seed: int, count: int) -> list[dict[str, Any]]:
    """`count` random configurations, as of `SearchSpace.suggest`; equal seeds give equal ones."""
    trial = RandomSuggester(seed)
    return [space.suggest(trial) for _ in range(count)]


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
"""Configurations that `infeasible` samples."""


LAYERS = ("conv_channels", "kernel_size", "pooling", "padding")
"""The hyperparameters that decide whether a network can be built; of the first, its length."""


def why_infeasible(space: Mapping[str, Domain]) -> str | None:
    """Why no network can be built of any of `DRAWS` samples; None if one can."""
    layers = {name: space[name] for name in LAYERS if name in space}
    trial, reason = RandomSuggester(0), None
    for _ in range(DRAWS):
        try:
            values = {name: domain.suggest(trial, name) for name, domain in layers.items()}
            ModelSpec(**values).check(MNIST_SHAPE)
        except ConfigError as error:
            reason = reason or str(error)
        else:
            return None
    return reason


def infeasible(space: Mapping[str, Domain]) -> list[str]:
    """Of `DRAWS` sampled configurations, the reason of each whose network cannot be built."""
    trial, reasons = RandomSuggester(0), []
    for _ in range(DRAWS):
        try:
            values = {name: domain.suggest(trial, name) for name, domain in space.items()}
            TrialConfig.from_dict(values).model.check(MNIST_SHAPE)
        except ConfigError as error:
            reasons.append(str(error))
    return reasons


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
    return unknown_name(name, PARAMETERS)


@functools.cache
def _default(name: str) -> Domain:
    return Fixed(canonical(PARAMETERS[name], TrialConfig.from_dict({}).to_dict()[name]))
