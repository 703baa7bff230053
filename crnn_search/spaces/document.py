"""YAML with the line of each key, so that error messages name the place in the file.

Scalars differ from YAML 1.1 where it surprises: `1e-3` is a number, `010` and `1:30` are texts.
`yes`/`no` and `on`/`off` are booleans. Anchors, aliases and tags are refused: a search space needs
none, and without aliases no document can be larger or deeper than its text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from crnn_search.errors import SpaceError
from crnn_search.text import cut, shown

KeyPath = tuple[str | int, ...]
"""The keys and list indices that lead to a value."""

MAX_DEPTH = 100
"""Mappings and lists inside each other; PyYAML composes them recursively."""


class Document:
    """A YAML document with the line of each value; it collects the problems found in it.

    Raises `SpaceError` for text that is not YAML or not a mapping. A repeated key is a problem.
    """

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self._lines: dict[KeyPath, int | None] = {}  # None: given with --set
        self._problems: list[tuple[float, KeyPath, str]] = []
        node = _compose(text, name)
        self.values: Any = None if node is None else self._convert(node, (), 1)
        if not isinstance(self.values, dict):
            got = "nothing: the file is empty" if node is None else shown(self.values)
            raise SpaceError([f"{name}:1: must be a mapping with a section space, got {got}"])

    def add(self, path: KeyPath, message: str) -> None:
        """Record a problem of the value at `path`, or of the place where it is missing."""
        known = next(path[:n] for n in range(len(path), -1, -1) if path[:n] in self._lines)
        self._add(self._lines[known], path, message)

    def raise_problems(self) -> None:
        """Report all recorded problems.

        Raises:
            SpaceError: there is a problem; one line for each, in the order of the file.
        """
        if self._problems:
            raise SpaceError([text for _, _, text in sorted(self._problems, key=lambda p: p[0])])

    def has_problem(self, path: KeyPath) -> bool:
        """Whether a problem was recorded of the value at `path` or of one inside it."""
        return any(where[: len(path)] == path for _, where, _ in self._problems)

    def override(self, assignment: str) -> None:
        """Set one value, given as `key.key=value` with `--set`; records its problems."""
        key, equals, text = assignment.partition("=")
        path = tuple(part.strip() for part in key.split("."))
        if not (equals and all(path)):
            self._add(None, (), f"must be key=value with a dotted key, got {shown(assignment)}")
            return
        try:
            node = _compose(text, "value")
        except SpaceError as error:
            self._add(None, path, str(error))
            return
        parent = self._parent_of(path)
        if parent is not None:
            self._lines = {p: n for p, n in self._lines.items() if p[: len(path)] != path}
            parent[path[-1]] = None if node is None else self._convert(node, path, None)
            self._lines[path] = None

    def _parent_of(self, path: KeyPath) -> dict[Any, Any] | None:
        """The mapping that holds the last key of `path`, created if it is missing."""
        parent: dict[Any, Any] = self.values
        for n, key in enumerate(path[:-1], start=1):
            if parent.get(key) is None:
                parent[key] = {}
                self._lines[path[:n]] = None
            parent = parent[key]
            if not isinstance(parent, dict):
                self._add(None, path, f"{dotted(path[:n])} is not a mapping, it is {shown(parent)}")
                return None
        return parent

    def _add(self, line: int | None, path: KeyPath, message: str) -> None:
        origin = "--set" if line is None else f"{self.name}:{line}"
        parts = [origin, dotted(path), message] if path else [origin, message]
        self._problems.append((math.inf if line is None else line, path, ": ".join(parts)))

    def _convert(self, node: yaml.Node, path: KeyPath, line: int | None) -> Any:
        """The values of a node; `line` is that of its key, None for `--set`."""
        self._lines[path] = line
        if isinstance(node, yaml.MappingNode):
            return self._convert_mapping(node, path, line)
        if isinstance(node, yaml.SequenceNode):
            return [
                self._convert(item, (*path, i), line and item.start_mark.line + 1)
                for i, item in enumerate(node.value)
            ]
        return _CONVERT[node.tag](node.value)

    def _convert_mapping(
        self, node: yaml.MappingNode, path: KeyPath, line: int | None
    ) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key_line = line and key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._add(key_line, path, "a key must be a word, got a list or mapping")
                continue
            key = key_node.value  # as written: `on` is a text here
            if key in values:
                first = self._lines[(*path, key)]
                where = "" if first is None else f", first on line {first}"
                self._add(key_line, (*path, key), f"the key is given twice{where}")
                continue
            values[key] = self._convert(value_node, (*path, key), key_line)
        return values


def dotted(path: KeyPath) -> str:
    """`("first", 0, "dropout")` as `first[0].dropout`; a key that is not printable is quoted."""
    parts = (f"[{p}]" if isinstance(p, int) else f".{_key(p)}" for p in path)
    return cut("".join(parts).removeprefix("."))


def _key(key: str) -> str:
    return key if key.isprintable() else repr(key)


def _compose(text: str, name: str) -> yaml.Node | None:
    """The root node, None for an empty text; raises `SpaceError` if the text is not YAML."""
    try:
        _check_events(text, name)
        return yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        origin = f"{name}:{mark.line + 1}" if mark else name
        words = ": ".join(part for part in (error.context, error.problem) if part)
        raise SpaceError([f"{origin}: not YAML: {words}"]) from None
    except yaml.YAMLError as error:  # a character that YAML forbids; the error has no line
        raise SpaceError([f"{name}: not YAML: {' '.join(str(error).split())}"]) from None


def _check_events(text: str, name: str) -> None:
    """Refuse anchors, aliases, tags and deep nesting before anything is composed."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise SpaceError([f"{name}: not YAML that can be read: nested too deeply"])
        if getattr(event, "anchor", None) or getattr(event, "tag", None):
            mark = event.start_mark
            assert isinstance(mark, yaml.Mark)  # not the C loader's
            rule = "anchors, aliases and tags are not supported"
            raise yaml.MarkedYAMLError(problem=rule, problem_mark=mark)


def _tag(kind: str) -> str:
    return f"tag:yaml.org,2002:{kind}"


_CONVERT: Mapping[str, Callable[[str], Any]] = {
    _tag("null"): lambda _: None,
    _tag("bool"): lambda word: word.lower() in {"true", "yes", "on"},
    _tag("int"): int,
    _tag("float"): float,
    _tag("str"): str,
}

_PATTERNS: Mapping[str, str] = {
    "null": r"(~|null|Null|NULL|)$",
    "bool": r"(true|True|TRUE|false|False|FALSE|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF)$",
    # Without leading zeros (octal in YAML 1.1) and within 64 bits.
    "int": r"[-+]?(0|[1-9](_?[0-9]){0,17})$",
    "float": r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?$",
}


class _Loader(yaml.BaseLoader):
    """A loader without PyYAML's own rules for scalars."""


for _kind, _pattern in _PATTERNS.items():
    _Loader.add_implicit_resolver(_tag(_kind), re.compile(_pattern), None)
