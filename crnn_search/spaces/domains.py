"""The values that one hyperparameter may have in a search: `Fixed`, a range, a choice or a list.

Bounds are inclusive. Inside domains lists are tuples. Names and values as Optuna sees them:

- a range or a choice has the parameter's own name, `dropout`;
- a `ListOf` asks `gru_sizes.length`, then `gru_sizes.0`, `gru_sizes.1` … and no more than that
  length has; a length that cannot vary is not asked;
- a choice of lists has JSON texts for options, `"[4, 3]"`, as Optuna's may only be scalars. The
  options of a list parameter always are lists: 3 is short for [3] and becomes `"[3]"`;
- what is fixed is not asked.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from crnn_search.hyperparameters import Rule


class Asker(Protocol):
    """What a domain needs of Optuna's `Trial` or `FixedTrial`."""

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int: ...

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


class Domain(Protocol):
    """The values one hyperparameter may have; lists are tuples in here."""

    def ask(self, asker: Asker, name: str) -> Any:
        """The value that a trial suggests."""

    def answers(self, name: str, value: Any) -> dict[str, Any]:
        """Optuna's parameters for `value`: what `ask` would have to be answered."""

    def allows(self, value: Any) -> bool:
        """Whether `value`, of the right type, is in the domain."""

    def describe(self) -> str:
        """The domain in words, for "must be …"."""

    def to_yaml(self) -> Any:
        """As in a file."""


@dataclass(frozen=True)
class Fixed:
    """One value, never asked for."""

    value: Any

    def ask(self, asker: Asker, name: str) -> Any:
        return self.value

    def answers(self, name: str, value: Any) -> dict[str, Any]:
        return {}

    def allows(self, value: Any) -> bool:
        return bool(value == self.value)

    def describe(self) -> str:
        return f"{plain(self.value)!r}, which is fixed"

    def to_yaml(self) -> Any:
        return plain(self.value)


@dataclass(frozen=True)
class _Range:
    """What ranges have in common."""

    low: Any
    high: Any
    log: bool = False
    step: Any = None
    kind: ClassVar[str]
    noun: ClassVar[str]

    def answers(self, name: str, value: Any) -> dict[str, Any]:
        return {name: value}

    def allows(self, value: Any) -> bool:
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

    def ask(self, asker: Asker, name: str) -> int:
        return int(asker.suggest_int(name, self.low, self.high, log=self.log, step=self.step or 1))


@dataclass(frozen=True)
class FloatRange(_Range):
    """Numbers, both bounds included."""

    low: float
    high: float
    step: float | None = None
    kind: ClassVar[str] = "float"
    noun: ClassVar[str] = "a number"

    def ask(self, asker: Asker, name: str) -> float:
        return float(asker.suggest_float(name, self.low, self.high, log=self.log, step=self.step))


@dataclass(frozen=True)
class Choice:
    """One of some options."""

    options: tuple[Any, ...]

    def ask(self, asker: Asker, name: str) -> Any:
        texts = [_for_optuna(option) for option in self.options]
        return self.options[texts.index(asker.suggest_categorical(name, texts))]

    def answers(self, name: str, value: Any) -> dict[str, Any]:
        return {name: _for_optuna(value)}

    def allows(self, value: Any) -> bool:
        return any(value == option for option in self.options)

    def describe(self) -> str:
        return "one of " + ", ".join(str(plain(option)) for option in self.options)

    def to_yaml(self) -> Any:
        return {"choice": [plain(option) for option in self.options]}


@dataclass(frozen=True)
class ListOf:
    """A list of varying length, each item from the same domain."""

    item: Domain
    min_length: int
    max_length: int

    def ask(self, asker: Asker, name: str) -> tuple[Any, ...]:
        length = self._length().ask(asker, f"{name}.length")
        return tuple(self.item.ask(asker, f"{name}.{i}") for i in range(length))

    def answers(self, name: str, value: Any) -> dict[str, Any]:
        answers = self._length().answers(f"{name}.length", len(value))
        for i, item in enumerate(value):
            answers |= self.item.answers(f"{name}.{i}", item)
        return answers

    def allows(self, value: Any) -> bool:
        return self._length().allows(len(value)) and all(map(self.item.allows, value))

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
    """A valid value as domains have it: 0 is 0.0 for a float; 3, [3] and (3,) are one list."""
    if rule.kind == "float":
        return float(value)
    if rule.kind == "int_list":
        return tuple(value) if isinstance(value, list | tuple) else (value,)
    return value


def plain(value: Any) -> Any:
    """A domain's value in JSON's types."""
    return list(value) if isinstance(value, tuple) else value


def _for_optuna(option: Any) -> Any:
    """An option as Optuna may have it."""
    return json.dumps(option) if isinstance(option, tuple) else option


class RandomAsker:
    """Answers at random, as Optuna's `RandomSampler`, without Optuna."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 (no secret)

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        if log:  # half a unit wider, so that the bounds are as likely as their neighbours
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
        return min(max(drawn, low), high)  # rounding may lead out of the bounds

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._random.choice(choices)
