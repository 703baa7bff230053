"""Search space files: read, and validated completely before anything starts.

All problems are reported at once, each with its line, its rule and the value received.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from crnn_search.errors import SpaceError
from crnn_search.hyperparameters import PARAMETERS, Rule, unknown_name
from crnn_search.spaces.document import Document, KeyPath
from crnn_search.spaces.domains import (
    Choice,
    Domain,
    Fixed,
    FloatRange,
    IntRange,
    ListOf,
    canonical,
    plain,
)
from crnn_search.spaces.space import (
    DRAWS,
    ResourcesSpec,
    RetrainSpec,
    SearchSpace,
    SearchSpec,
    Section,
    TaskSpec,
    infeasible,
    problems,
)


def load_space(path: Path, overrides: Sequence[str] = ()) -> SearchSpace:
    """Read a search space file; `overrides` are `key=value` texts of `--set`.

    Raises:
        SpaceError: the file cannot be read or is wrong; every problem, one line each.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SpaceError([f"{path}: cannot be read: {error.strerror}"]) from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        byte = f"0x{raw[error.start]:02x}"
        raise SpaceError([f"{path}:{line}: must be UTF-8 text, got the byte {byte}"]) from None
    return parse_space(text, overrides, str(path))


def parse_space(text: str, overrides: Sequence[str] = (), name: str = "space.yaml") -> SearchSpace:
    """Parse a search space; `name` stands for the file in messages.

    Raises:
        SpaceError: the text or an override is wrong; every problem, one line each.
    """
    document = Document(text, name)
    for assignment in overrides:
        document.override(assignment)
    for key in document.values:
        if key not in _SECTIONS:
            document.add((key,), unknown_name(key, _SECTIONS))
    task = _section(document, "task", TaskSpec)
    search = _section(document, "search", SearchSpec)
    space = _read_space(document, task)
    result = SearchSpace(
        task=task,
        search=search,
        retrain=_section(
            document, "retrain", RetrainSpec, {"epoch_sequences": search.epoch_sequences}
        ),
        resources=_section(document, "resources", ResourcesSpec),
        first=_read_first(document, space),
        space=_known(space),
    )
    document.raise_problems()
    return result


_SECTIONS = ("task", "search", "retrain", "resources", "first", "space")


_S = TypeVar("_S", bound=Section)


def _section(
    document: Document, section: str, spec: type[_S], defaults: Mapping[str, Any] | None = None
) -> _S:
    """A section's spec; all defaults where it has a problem, which is noted."""
    raw = document.values.get(section)
    if raw is None:  # absent, or all its lines are comments
        raw = {}
    if not isinstance(raw, dict):
        document.add((section,), f"must be a mapping, got {raw!r}")
        return spec()
    try:
        return spec.model_validate({**(defaults or {}), **raw})
    except ValidationError as error:
        # A union reports one problem for each of its members: one a name is enough.
        by_name = {str(item["loc"][0]): item for item in error.errors()}
    for name, item in by_name.items():
        if name not in spec.model_fields:
            message = unknown_name(name, spec.model_fields)
        elif item["type"] == "value_error":
            message = str(item["ctx"]["error"])
        else:
            message = f"must be {spec.model_fields[name].description}, got {raw[name]!r}"
        document.add((section, name), message)
    return spec()


def _read_space(document: Document, task: TaskSpec) -> dict[str, Domain | None]:
    """The domain of each parameter; None, which allows all, where problems leave it unknown."""
    raw = document.values.get("space")
    space: dict[str, Domain | None] = {}
    if not isinstance(raw, dict):
        received = repr(raw) if "space" in document.values else "none"
        rule = "must be a mapping of hyperparameters ({} searches nothing)"
        document.add(("space",), f"{rule}, got {received}")
        raw = {}
    for name, value in raw.items():
        if name in PARAMETERS:
            space[name] = _domain(document, ("space", name), PARAMETERS[name], value)
        else:
            document.add(("space", name), unknown_name(name, PARAMETERS))
    if not document.has_problem(("task",)):
        _check_lengths(document, space.get("max_sequence_length"), task.max_digits)
    if document.has_problem(("space",)):
        return dict.fromkeys(PARAMETERS) | space
    reasons = infeasible(_known(space))
    if len(reasons) == DRAWS:
        document.add(("space",), f"no sampled network can be built: {reasons[0]}")
    return space


def _known(space: Mapping[str, Domain | None]) -> dict[str, Domain]:
    return {name: domain for name, domain in space.items() if domain}


def _check_lengths(document: Document, domain: Domain | None, max_digits: int) -> None:
    """Training sequences longer than any that is scored would only be cut."""
    highest = int(PARAMETERS["max_sequence_length"].high)
    too_long = [n for n in range(max_digits + 1, highest + 1) if domain and domain.allows(n)]
    if too_long:
        rule = f"must be at most task.max_digits, which is {max_digits}"
        document.add(("space", "max_sequence_length"), f"{rule}, got {too_long[-1]}")


def _read_first(
    document: Document, space: Mapping[str, Domain | None]
) -> tuple[dict[str, Any], ...]:
    """The configurations to try first; their problems are noted."""
    entries = document.values.get("first")
    if entries is None:
        return ()
    if not isinstance(entries, list):
        document.add(("first",), f"must be a list of configurations, got {entries!r}")
        return ()
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict):
            document.add(("first", i), f"must be a mapping of hyperparameters, got {entry!r}")
            continue
        found = list(problems(entry, space))
        for name, message in found:
            document.add(("first", i, name), message)
        if not found and None not in space.values():
            _check_network(document, ("first", i), entry, _known(space))
    if document.has_problem(("first",)):
        return ()
    return tuple({k: plain(canonical(PARAMETERS[k], v)) for k, v in e.items()} for e in entries)


def _check_network(
    document: Document, path: KeyPath, entry: Mapping[str, Any], space: Mapping[str, Domain]
) -> None:
    """Note an entry of `first` whose network cannot be built, whatever is sampled besides."""
    entered = {name: Fixed(canonical(PARAMETERS[name], value)) for name, value in entry.items()}
    reasons = infeasible({**space, **entered})
    if len(reasons) == DRAWS:
        document.add(path, f"its network cannot be built: {reasons[0]}")


_DOMAIN_KEYS: Mapping[str, tuple[str, ...]] = {
    "int": ("int", "log", "step"),
    "float": ("float", "log", "step"),
    "choice": ("choice",),
    "list_of": ("list_of", "length"),
}


_SUITABLE: Mapping[str, tuple[str, ...]] = {
    "int": ("int", "choice"),
    "float": ("float", "choice"),
    "bool": ("choice",),
    "choice": ("choice",),
    "int_list": ("list_of", "choice"),
}
"""The domains of each kind of rule, the usual one first."""


def _domain(document: Document, path: KeyPath, rule: Rule, raw: Any) -> Domain | None:
    if not isinstance(raw, dict):
        if rule.accepts(raw):
            return Fixed(canonical(rule, raw))
        document.add(path, f"must be {rule.describe()}, got {raw!r}")
        return None
    kind = _domain_kind(document, path, rule, raw)
    if kind is None:
        return None
    for key in raw:
        if key not in _DOMAIN_KEYS[kind]:
            document.add((*path, key), unknown_name(key, _DOMAIN_KEYS[kind]))
    if kind == "choice":
        domain = _choice(document, path, rule, raw)
    elif kind == "list_of":
        domain = _list_of(document, path, rule, raw)
    else:
        domain = _range(document, path, rule, raw)
    return None if document.has_problem(path) else domain


def _domain_kind(
    document: Document, path: KeyPath, rule: Rule, raw: Mapping[str, Any]
) -> str | None:
    """Which domain a mapping is, if it is one that suits the parameter."""
    kinds = [key for key in raw if key in _DOMAIN_KEYS]
    if not kinds and raw:
        document.add(path, f"unknown domain: {unknown_name(next(iter(raw)), _DOMAIN_KEYS)}")
    elif len(kinds) != 1:
        document.add(path, f"must have one of {', '.join(_DOMAIN_KEYS)}, got {raw!r}")
    elif kinds[0] not in _SUITABLE[rule.kind]:
        valid = " or ".join(_SUITABLE[rule.kind])
        document.add(path, f"must be {rule.describe()}: use {valid}, got {kinds[0]}")
    else:
        return kinds[0]
    return None


def _range(document: Document, path: KeyPath, rule: Rule, raw: Mapping[str, Any]) -> Domain | None:
    bounds = _bounds(document, (*path, rule.kind), rule, raw[rule.kind])
    log, step = raw.get("log", False), raw.get("step")
    if not isinstance(log, bool):
        document.add((*path, "log"), f"must be true or false, got {log!r}")
    if log is True and bounds and bounds[0] <= 0:
        document.add((*path, "log"), f"log: true needs a lower bound above 0, got {bounds[0]}")
    if "step" in raw:
        _check_step(document, (*path, "step"), rule, raw, bounds)
    if not bounds:
        return None
    return (IntRange if rule.kind == "int" else FloatRange)(*bounds, log, step)


_MAX_STEPS = 1_000_000
"""With many more, rounding would take a sampled value past the tolerance of `_Range.allows`."""


def _check_step(
    document: Document,
    path: KeyPath,
    rule: Rule,
    raw: Mapping[str, Any],
    bounds: tuple[Any, Any] | None,
) -> None:
    step = raw["step"]
    noun, types = ("a whole number", int) if rule.kind == "int" else ("a number", int | float)
    if isinstance(step, bool) or not isinstance(step, types) or not 0 < step < math.inf:
        document.add(path, f"must be {noun} above 0, got {step!r}")
    elif raw.get("log") is True:
        document.add(path, f"a range has log: true or a step, not both, got step {step}")
    elif bounds:
        # In decimals, as in Optuna: 0.3 is three steps of 0.1.
        low, high, size = (Fraction(str(number)) for number in (*bounds, step))
        steps = (high - low) / size
        if steps.denominator != 1 or steps > _MAX_STEPS:
            must = f"must lead from {bounds[0]} to {bounds[1]} in 0 to {_MAX_STEPS} whole steps"
            document.add(path, f"{must}, got {step}")


def _bounds(document: Document, path: KeyPath, rule: Rule, raw: Any) -> tuple[Any, Any] | None:
    if not isinstance(raw, list) or len(raw) != 2:
        document.add(path, f"must be two bounds, [low, high], got {raw!r}")
    elif not all(map(rule.accepts, raw)):
        document.add(path, f"each bound must be {rule.describe()}, got {raw!r}")
    elif raw[0] > raw[1]:
        document.add(path, f"low must be at most high, got {raw!r}")
    else:
        return canonical(rule, raw[0]), canonical(rule, raw[1])
    return None


def _choice(document: Document, path: KeyPath, rule: Rule, raw: Mapping[str, Any]) -> Domain | None:
    path, options = (*path, "choice"), raw["choice"]
    if not isinstance(options, list) or not options:
        document.add(path, f"must be a list of at least one option, got {options!r}")
        return None
    seen: list[Any] = []
    for i, option in enumerate(options):
        if not rule.accepts(option):
            document.add((*path, i), f"must be {rule.describe()}, got {option!r}")
        elif canonical(rule, option) in seen:
            document.add((*path, i), f"options must differ, got {option!r} twice")
        else:
            seen.append(canonical(rule, option))
    return Choice(tuple(seen))


def _list_of(
    document: Document, path: KeyPath, rule: Rule, raw: Mapping[str, Any]
) -> Domain | None:
    item_rule = dataclasses.replace(rule, kind="int", max_length=0)
    item = _domain(document, (*path, "list_of"), item_rule, raw["list_of"])
    lengths = Rule("int", "", low=1, high=rule.max_length)
    length, where = raw.get("length"), (*path, "length")
    if isinstance(length, list):
        bounds = _bounds(document, where, lengths, length)
    else:
        bounds = (length, length)
        if not lengths.accepts(length):
            received = repr(length) if "length" in raw else "none"
            document.add(where, f"must be {lengths.describe()} or [low, high], got {received}")
    return ListOf(item, *bounds) if item and bounds else None
