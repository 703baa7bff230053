"""Checks of what is read back from a run's files, which people may have altered."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from crnn_search.errors import ConfigError, InputError
from crnn_search.text import shown

ALTERED = (KeyError, TypeError, ValueError, AttributeError, ConfigError)
"""What reading a line raises that was altered, or written by another version."""

LARGEST = {int: 2**63, float: sys.float_info.max}
"""No number in a run's files is larger; JSON has larger ones, infinities and NaN."""

_JSON_TYPES: dict[str, type | tuple[type, ...]] = {
    "int": int,
    "float": (int, float),
    "str": str,
    "dict[str, Any]": dict,
    "TrialConfig": dict,
    "Arithmetic": dict,
    "TrialState": str,
}


def field_types(kind: type[Any]) -> dict[str, str]:
    """The types of a dataclass's fields, as they are written in it."""
    return {item.name: str(item.type) for item in fields(kind)}


def check_types(values: Mapping[str, Any], types: Mapping[str, str]) -> None:
    """Check the types of values; those whose name has no type are not checked.

    Raises:
        TypeError: a value has another type.
    """
    for name, value in values.items():
        if name in types and not _is_a(value, types[name]):
            raise TypeError(f"{name} must be of type {types[name]}, got {shown(value)}")


def check_bounds(values: Mapping[str, Any], bounds: Mapping[str, tuple[float, float]]) -> None:
    """Check that numbers are within bounds, inclusive; None, and what has none, is not checked.

    Raises:
        ValueError: a number is not.
    """
    for name, (low, high) in bounds.items():
        if values.get(name) is not None and not low <= values[name] <= high:
            raise ValueError(f"{name} must be from {low:g} to {high:g}, got {values[name]}")


def altered_line(path: Path, number: int, kind: str, error: Exception) -> InputError:
    """The error for a line that is not `kind`. error: one of `ALTERED`."""
    why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
    return InputError(
        f"line {number} of {path} is not {kind} of this version of crnn-search: {why}"
    )


def _is_a(value: Any, kind: str) -> bool:
    if kind.endswith(" | None"):
        return value is None or _is_a(value, kind.removesuffix(" | None"))
    if kind.startswith("list["):
        return isinstance(value, list) and all(_is_a(item, kind[5:-1]) for item in value)
    if kind == "bool" or isinstance(value, bool):
        return kind == "bool" and isinstance(value, bool)
    if isinstance(value, int | float):
        largest = LARGEST[float if kind == "float" else int]
        return isinstance(value, _JSON_TYPES[kind]) and -largest <= value <= largest
    return isinstance(value, _JSON_TYPES[kind])
