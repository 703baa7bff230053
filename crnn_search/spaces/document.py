"""YAML with the line of each key, so that error messages name the place in the file.

Scalars differ from YAML 1.1 where it surprises: `1e-3` is a number, `010` and `1:30` are texts.
`yes`/`no` and `on`/`off` are booleans. Anchors, aliases and tags are refused: a search space needs
none, and without aliases no document can be larger or deeper than its text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import yaml

from crnn_search.errors import SpaceError
from crnn_search.text import cut, shown

KeyPath = tuple[str | int, ...]
"""The keys and list indices that lead to a value."""

Events = Iterator[Any]
"""What PyYAML's parsers give: scalars, starts and ends of mappings and lists."""

MAX_DEPTH = 100
"""Mappings and lists inside each other; they are read recursively."""


class Document:
    """A YAML document with the line of each value; it collects the problems found in it.

    Raises `SpaceError` for text that is not YAML or not a mapping. A repeated key is a problem.
    """

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self._lines: dict[KeyPath, int | None] = {}  # None: given with --set
        self._problems: list[tuple[float, KeyPath, str]] = []
        events = _events(text, name)
        self.values: Any = self._read(iter(events), (), 1) if events else None
        if not isinstance(self.values, dict):
            got = "nothing: the file is empty" if not events else shown(self.values)
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
            events = _events(text, "value")
        except SpaceError as error:
            self._add(None, path, str(error))
            return
        parent = self._parent_of(path)
        if parent is not None:
            self._lines = {p: n for p, n in self._lines.items() if p[: len(path)] != path}
            parent[path[-1]] = self._read(iter(events), path, None) if events else None
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

    def _read(self, events: Events, path: KeyPath, line: int | None) -> Any:
        """The next value; `line` is that of its key, None for `--set`."""
        return self._value(next(events), events, path, line)

    def _value(self, event: Any, events: Events, path: KeyPath, line: int | None) -> Any:
        """The value that starts with an event."""
        self._lines[path] = line
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(events, path, line)
        if not isinstance(event, yaml.SequenceStartEvent):
            return _scalar(event)
        values: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            item_line = line and event.start_mark.line + 1
            values.append(self._value(event, events, (*path, len(values)), item_line))
        return values

    def _mapping(self, events: Events, path: KeyPath, line: int | None) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            key_line = line and event.start_mark.line + 1
            if not isinstance(event, yaml.ScalarEvent):
                self._add(key_line, path, "a key must be a word, got a list or mapping")
                _skip(event, events)
                _skip(next(events), events)
                continue
            key = event.value  # as written: `on` is a text here
            if key in values:
                first = self._lines[(*path, key)]
                where = "" if first is None else f", first on line {first}"
                self._add(key_line, (*path, key), f"the key is given twice{where}")
                _skip(next(events), events)
                continue
            values[key] = self._read(events, (*path, key), key_line)
        return values


def dotted(path: KeyPath) -> str:
    """`("first", 0, "dropout")` as `first[0].dropout`; a key that is not printable is quoted."""
    parts = (f"[{p}]" if isinstance(p, int) else f".{_key(p)}" for p in path)
    return cut("".join(parts).removeprefix("."))


def _key(key: str) -> str:
    return key if key.isprintable() else repr(key)


def _events(text: str, name: str) -> list[Any]:
    """The events of the document's content, empty for an empty text.

    Raises:
        SpaceError: the text is not YAML, or has what is not supported.
    """
    try:
        return _parse(text, name, getattr(yaml, "CBaseLoader", yaml.BaseLoader))
    except yaml.YAMLError:
        pass  # parsed again: the parser in C is 30 times as fast, but has poorer messages
    try:
        return _parse(text, name, yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        origin = f"{name}:{mark.line + 1}" if mark else name
        words = ": ".join(part for part in (error.context, error.problem) if part)
        raise SpaceError([f"{origin}: not YAML: {words}"]) from None
    except yaml.YAMLError as error:  # a character that YAML forbids; the error has no line
        raise SpaceError([f"{name}: not YAML: {' '.join(str(error).split())}"]) from None


def _parse(text: str, name: str, loader: Any) -> list[Any]:
    """As `_events`, but raises PyYAML's errors. Refuses anchors, aliases, tags and deep nesting."""
    events: list[Any] = []
    depth = documents = 0
    for event in yaml.parse(text, Loader=loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise SpaceError([f"{name}: not YAML that can be read: nested too deeply"])
        rule = ""
        if getattr(event, "anchor", None) or getattr(event, "tag", None):
            rule = "anchors, aliases and tags are not supported"
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            rule = "expected a single document, but found another" if documents > 1 else ""
        if rule:
            mark = cast(yaml.Mark, event.start_mark)
            raise yaml.MarkedYAMLError(problem=rule, problem_mark=mark)
        if isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent):
            events.append(event)
    return events


def _skip(event: Any, events: Events) -> None:
    """Go to the end of the value that starts with an event."""
    depth = int(isinstance(event, yaml.CollectionStartEvent))
    while depth:
        event = next(events)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)


def _scalar(event: Any) -> Any:
    """The value of a scalar: a text if it is quoted."""
    match = _PATTERN.match(event.value) if event.implicit[0] else None
    return _CONVERT[str(match.lastgroup)](event.value) if match else event.value


_CONVERT: Mapping[str, Callable[[str], Any]] = {
    "null": lambda _: None,
    "bool": lambda word: word.lower() in {"true", "yes", "on"},
    "int": int,
    "float": float,
}

_PATTERN = re.compile(
    r"(?:(?P<null>~|null|Null|NULL|)"
    r"|(?P<bool>true|True|TRUE|false|False|FALSE|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF)"
    # Without leading zeros (octal in YAML 1.1) and within 64 bits.
    r"|(?P<int>[-+]?(?:0|[1-9](?:_?[0-9]){0,17}))"
    r"|(?P<float>[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?))$"
)
