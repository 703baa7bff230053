"""Which entries of `first` cannot be trained, whatever else is sampled."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from crnn_search.errors import ConfigError
from crnn_search.hyperparameters import PARAMETERS, ImageShape, ModelSpec, TrialConfig, too_large
from crnn_search.spaces.domains import Domain, Fixed, RandomSuggester, canonical
from crnn_search.spaces.space import DRAWS

LAYERS = ("conv_channels", "kernel_size", "pooling", "padding")
"""The hyperparameters that decide whether a network can be built; of the first, its length."""

BATCHES = ("batch_size", "reuse")
"""The hyperparameters that must fit each other."""

SIZES = (*LAYERS, "batch_norm", "embedding", "gru_sizes")
"""The hyperparameters that decide how many parameters a network has."""


class EntryCheck:
    """Checks entries of `first`; many of them fast, since what they have in common is found once.

    shape: of images. max_parameters: of a network; None is no limit.
    """

    def __init__(
        self, space: Mapping[str, Domain], shape: ImageShape, max_parameters: int | None
    ) -> None:
        self._space = space
        self._shape = shape
        self._max_parameters = max_parameters
        self._misfits: dict[Any, str | None] = {}
        self._smallest: dict[tuple[str, ...], list[dict[str, Any]]] = {}

    def why_infeasible(self, entry: Mapping[str, Any]) -> str | None:
        """Why none of `DRAWS` samples that complete an entry can be trained; None if one can.

        entry: with values that are in the space.
        """
        names = (*SIZES, *BATCHES)
        values = {n: canonical(PARAMETERS[n], entry[n]) for n in names if n in entry}
        return self._why_misfit(values) or self._why_too_large(values)

    def _why_misfit(self, values: Mapping[str, Any]) -> str | None:
        """Why no network can be built, or why no batch fits."""
        entered = {n: values[n] for n in LAYERS + BATCHES if n in values}
        if not entered:
            return None  # as in the space itself
        key = tuple((n, len(v) if n == "conv_channels" else v) for n, v in entered.items())
        if key not in self._misfits:
            fixed = {n: Fixed(v) for n, v in entered.items()}
            self._misfits[key] = why_misfit({**self._space, **fixed}, self._shape)
        return self._misfits[key]

    def _why_too_large(self, values: Mapping[str, Any]) -> str | None:
        """Why every network is too large."""
        entered = {n: values[n] for n in SIZES if n in values}
        if self._max_parameters is None or not entered:
            return None
        missing = tuple(n for n in SIZES if n in self._space and n not in entered)
        smallest = math.inf
        for sampled in self._samples(missing):
            spec = ModelSpec(**entered, **sampled)
            try:
                smallest = min(smallest, spec.parameter_count(self._shape))
            except ConfigError:
                continue  # no pixels are left
            if smallest <= self._max_parameters:
                return None
        return None if smallest == math.inf else too_large(int(smallest), self._max_parameters)

    def _samples(self, names: tuple[str, ...]) -> list[dict[str, Any]]:
        """Of `DRAWS` samples those that may have the smallest network, whatever the entry."""
        if names not in self._smallest:
            trial, kept = RandomSuggester(0), list[dict[str, Any]]()
            draws = [{n: self._space[n].suggest(trial, n) for n in names} for _ in range(DRAWS)]
            for values in sorted(draws, key=_width):
                if not any(never_larger(other, values) for other in kept):
                    kept.append(values)
            self._smallest[names] = kept
        return self._smallest[names]


def why_misfit(space: Mapping[str, Domain], shape: ImageShape) -> str | None:
    """Why none of `DRAWS` samples leaves pixels and has a batch that fits; None if one does."""
    decisive = {name: space[name] for name in LAYERS + BATCHES if name in space}
    trial, reason = RandomSuggester(0), None
    for _ in range(DRAWS):
        try:
            values = {name: domain.suggest(trial, name) for name, domain in decisive.items()}
            TrialConfig.from_dict(values).model.check(shape)
        except ConfigError as error:
            reason = reason or str(error)
        else:
            return None
    return reason


def never_larger(values: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a network never has more parameters than with `other`, all else being equal.

    The two have the same names, of `SIZES`.
    """
    return all(_NEVER_LARGER[n](values[n], other[n]) for n in values)


_NEVER_LARGER: dict[str, Callable[[Any, Any], bool]] = {
    "conv_channels": lambda a, b: len(a) == len(b) and all(map(operator.le, a, b)),
    "kernel_size": operator.eq,
    "pooling": operator.eq,
    "padding": operator.eq,
    "batch_norm": operator.le,
    "gru_sizes": lambda a, b: len(a) <= len(b) and all(map(operator.le, a, b)),
    "embedding": lambda a, b: a == b or 0 < a <= b,  # without one a network may be larger
}


def _width(values: Mapping[str, Any]) -> int:
    """Less for those that are `never_larger`."""
    lists = sum(sum(values.get(name, ())) for name in ("conv_channels", "gru_sizes"))
    return int(lists + values.get("embedding", 0) + values.get("batch_norm", 0))
