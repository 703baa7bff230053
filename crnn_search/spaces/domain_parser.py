"""Domains of a search space file: `{int: [8, 64], log: true}` to `IntRange(8, 64, log=True)`.

Problems are recorded in the document, each with its path: the rule and the value received.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from crnn_search.hyperparameters import Rule, unknown_name
from crnn_search.spaces.document import Document, KeyPath
from crnn_search.spaces.domains import (
    Choice,
    Domain,
    Fixed,
    FloatRange,
    IntRange,
    ListOf,
    canonical,
)
from crnn_search.text import shown

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
"""The domains of each kind of rule, the most common first."""


def parse_domain(document: Document, path: KeyPath, rule: Rule, raw: Any) -> Domain | None:
    """The domain of a hyperparameter from its value in the file.

    Args:
        document: collects the problems.
        path: where the value is in the document.
        rule: the hyperparameter's.
        raw: the value.

    Returns:
        The domain; None if it has a problem.
    """
    if not isinstance(raw, dict):
        if rule.accepts(raw):
            return Fixed(canonical(rule, raw))
        document.add(path, f"must be {rule.describe()}, got {shown(raw)}")
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
    """The key of the domain that a mapping describes; None if the rule does not take it."""
    kinds = [key for key in raw if key in _DOMAIN_KEYS]
    if not kinds and raw:
        document.add(path, f"unknown domain: {unknown_name(next(iter(raw)), _DOMAIN_KEYS)}")
    elif len(kinds) != 1:
        document.add(path, f"must have one of {', '.join(_DOMAIN_KEYS)}, got {shown(raw)}")
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
        document.add((*path, "log"), f"must be true or false, got {shown(log)}")
    if log is True and bounds and bounds[0] <= 0:
        document.add((*path, "log"), f"log: true needs a lower bound above 0, got {bounds[0]}")
    if "step" in raw:
        _check_step(document, (*path, "step"), rule, raw, bounds)
    if not bounds:
        return None
    return (IntRange if rule.kind == "int" else FloatRange)(*bounds, log, step)


MAX_STEPS = 1_000_000
"""With many more, rounding takes a sampled value past the tolerance of `contains`."""


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
        document.add(path, f"must be {noun} above 0, got {shown(step)}")
    elif raw.get("log") is True:
        document.add(path, f"a range has log: true or a step, not both, got step {step}")
    elif bounds:
        # In decimals, as in Optuna: 0.3 is three steps of 0.1.
        low, high, size = (Fraction(str(number)) for number in (*bounds, step))
        steps = (high - low) / size
        if steps.denominator != 1 or steps > MAX_STEPS:
            must = f"must lead from {bounds[0]} to {bounds[1]} in 0 to {MAX_STEPS} whole steps"
            document.add(path, f"{must}, got {step}")


def _bounds(document: Document, path: KeyPath, rule: Rule, raw: Any) -> tuple[Any, Any] | None:
    if not isinstance(raw, list) or len(raw) != 2:
        document.add(path, f"must be two bounds, [low, high], got {shown(raw)}")
    elif not all(map(rule.accepts, raw)):
        document.add(path, f"each bound must be {rule.describe()}, got {shown(raw)}")
    elif raw[0] > raw[1]:
        document.add(path, f"low must be at most high, got {shown(raw)}")
    else:
        return canonical(rule, raw[0]), canonical(rule, raw[1])
    return None


def _choice(document: Document, path: KeyPath, rule: Rule, raw: Mapping[str, Any]) -> Domain | None:
    path, options = (*path, "choice"), raw["choice"]
    if not isinstance(options, list) or not options:
        document.add(path, f"must be a list of at least one option, got {shown(options)}")
        return None
    seen: dict[Any, None] = {}
    for i, option in enumerate(options):
        if not rule.accepts(option):
            document.add((*path, i), f"must be {rule.describe()}, got {shown(option)}")
        elif canonical(rule, option) in seen:
            document.add((*path, i), f"options must differ, got {shown(option)} twice")
        else:
            seen[canonical(rule, option)] = None
    return Choice(tuple(seen))


def _list_of(
    document: Document, path: KeyPath, rule: Rule, raw: Mapping[str, Any]
) -> Domain | None:
    item_rule = dataclasses.replace(rule, kind="int", max_length=0)
    item = parse_domain(document, (*path, "list_of"), item_rule, raw["list_of"])
    lengths = Rule("int", "", low=1, high=rule.max_length)
    length, where = raw.get("length"), (*path, "length")
    if isinstance(length, list):
        bounds = _bounds(document, where, lengths, length)
    else:
        bounds = (length, length)
        if not lengths.accepts(length):
            received = shown(length) if "length" in raw else "none"
            document.add(where, f"must be {lengths.describe()} or [low, high], got {received}")
    return ListOf(item, *bounds) if item and bounds else None
