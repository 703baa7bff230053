"""The values of one hyperparameter in a search: `Fixed`, a range, a `Choice` or a `ListOf`.

Bounds are inclusive. Inside domains lists are tuples. Names and values in Optuna:

- a range or a choice has the hyperparameter's own name, `dropout`;
- a `ListOf` suggests `gru_sizes.length`, then one item for each place of that length:
  `gru_sizes.0`, `gru_sizes.1` …; a length that cannot vary is not suggested;
- a choice of lists has JSON texts as options, `"[4, 3]"`, since Optuna's options are scalars. An
  option of a list parameter is always a list: 3 is short for [3] and becomes `"[3]"`;
- a fixed value is not suggested.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from crnn_search.hyperparameters import Rule
from crnn_search.text import cut, shown


class Suggester(Protocol):
    """The part of Optuna's `Trial` and `FixedTrial` that domains use."""

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int: ...

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


class Domain(Protocol):
    """The values one hyperparameter may have; lists are tuples."""

    def suggest(self, suggester: Suggester, name: str) -> Any:
        """A value of the domain, chosen by `suggester`."""

    def to_params(self, name: str, value: Any) -> dict[str, Any]:
        """Optuna's parameters for `value`: with these `suggest` returns it."""

    def contains(self, value: Any) -> bool:
        """Whether `value`, of the right type, is in the domain."""

    def describe(self) -> str:
        """The domain in words, for "must be …"."""

    def to_yaml(self) -> Any:
        """The domain as written in a search space file."""


@dataclass(frozen=True)
class Fixed:
    """One value, never suggested."""

    value: Any

    def suggest(self, suggester: Suggester, name: str) -> Any:
        return self.value

    def to_params(self, name: str, value: Any) -> dict[str, Any]:
        return {}

    def contains(self, value: Any) -> bool:
        return bool(value == self.value)

    def describe(self) -> str:
        return f"{shown(to_json(self.value))}, which is fixed"

    def to_yaml(self) -> Any:
        return to_json(self.value)


@dataclass(frozen=True)
class _Range:
    """Base of both ranges."""

    low: Any
    high: Any
    log: bool = False
    step: Any = None
    kind: ClassVar[str]
    noun: ClassVar[str]

    def to_params(self, name: str, value: Any) -> dict[str, Any]:
        return {name: value}

    def contains(self, value: Any) -> bool:
        if not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / self.step if self.step else 0
        return bool(abs(steps - round(steps)) < 1e-8)  # Optuna's tolerance

    def describe(self) -> str:
        steps = f" in steps of {self.step}" if self.step else ""
        return f"{self.noun} from {self.low} to {self.high}{steps}"

    def to_yaml(self) -> Any:
        raw = {self.kind: [self.low, self.high], "log": self.log, "step": self.step}
        return {key: value for key, value in raw.items() if value}


@dataclass(frozen=True)
class IntRange(_Range):
    """Whole numbers, both bounds included."""

    low: int
    high: int
    step: int | None = None
    kind: ClassVar[str] = "int"
    noun: ClassVar[str] = "a whole number"

    def suggest(self, suggester: Suggester, name: str) -> int:
        return int(
            suggester.suggest_int(name, self.low, self.high, log=self.log, step=self.step or 1)
        )


@dataclass(frozen=True)
class FloatRange(_Range):
    """Numbers, both bounds included."""

    low: float
    high: float
    step: float | None = None
    kind: ClassVar[str] = "float"
    noun: ClassVar[str] = "a number"

    def suggest(self, suggester: Suggester, name: str) -> float:
        return float(
            suggester.suggest_float(name, self.low, self.high, log=self.log, step=self.step)
        )


@dataclass(frozen=True)
class Choice:
    """One of some options."""

    options: tuple[Any, ...]

    def suggest(self, suggester: Suggester, name: str) -> Any:
        texts = [_to_optuna(option) for option in self.options]
        return self.options[texts.index(suggester.suggest_categorical(name, texts))]

    def to_params(self, name: str, value: Any) -> dict[str, Any]:
        return {name: _to_optuna(value)}

    def contains(self, value: Any) -> bool:
        return any(value == option for option in self.options)

    def describe(self) -> str:
        return "one of " + cut(", ".join(str(to_json(option)) for option in self.options))

    def to_yaml(self) -> Any:
        return {"choice": [to_json(option) for option in self.options]}


@dataclass(frozen=True)
class ListOf:
    """A list of varying length, each item from the same domain."""

    item: Domain
    min_length: int
    max_length: int

    def suggest(self, suggester: Suggester, name: str) -> tuple[Any, ...]:
        length = self._length().suggest(suggester, f"{name}.length")
        return tuple(self.item.suggest(suggester, f"{name}.{i}") for i in range(length))

    def to_params(self, name: str, value: Any) -> dict[str, Any]:
        params = self._length().to_params(f"{name}.length", len(value))
        for i, item in enumerate(value):
            params |= self.item.to_params(f"{name}.{i}", item)
        return params

    def contains(self, value: Any) -> bool:
        return self._length().contains(len(value)) and all(map(self.item.contains, value))

    def describe(self) -> str:
        return (
            f"a list of {self.min_length} to {self.max_length} items, each {self.item.describe()}"
        )

    def to_yaml(self) -> Any:
        return {"list_of": self.item.to_yaml(), "length": [self.min_length, self.max_length]}

    def _length(self) -> Domain:
        if self.min_length == self.max_length:
            return Fixed(self.min_length)
        return IntRange(self.min_length, self.max_length)


def canonical(rule: Rule, value: Any) -> Any:
    """A valid value in the type that domains use: 0 becomes 0.0; 3 and [3] become (3,)."""
    if rule.kind == "float":
        return float(value)
    if rule.kind == "int_list":
        return tuple(value) if isinstance(value, list | tuple) else (value,)
    return value


def to_json(value: Any) -> Any:
    """A domain's value in JSON's types: a tuple becomes a list."""
    return list(value) if isinstance(value, tuple) else value


def _to_optuna(option: Any) -> Any:
    """An option as a scalar: a list becomes JSON text."""
    return json.dumps(option) if isinstance(option, tuple) else option


class RandomSuggester:
    """Suggests at random, as Optuna's `RandomSampler`, without importing Optuna."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 (no secret)

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        if log:  # half a unit wider: the bounds are as likely as their neighbours
            drawn = round(self.suggest_float(name, low - 0.5, high + 0.5, log=True))
            return min(max(drawn, low), high)
        return self._random.randrange(low, high + 1, step)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if step:
            return min(high, low + step * self._random.randint(0, round((high - low) / step)))
        if log:
            drawn = math.exp(self._random.uniform(math.log(low), math.log(high)))
        else:
            drawn = self._random.uniform(low, high)
        return min(max(drawn, low), high)  # rounding may leave the bounds

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._random.choice(choices)
