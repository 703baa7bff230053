"""Which entries of `first` cannot be trained, whatever else is sampled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crnn_search.errors import ConfigError
from crnn_search.hyperparameters import PARAMETERS, ImageShape, ModelSpec
from crnn_search.spaces.domains import Domain, Fixed, canonical
from crnn_search.spaces.space import why_infeasible

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

    def why_infeasible(self, entry: Mapping[str, Any]) -> str | None:
        """Why no sample that completes an entry can be trained; None if one can.

        entry: with values that are in the space. Whether the network is too large is found if
        nothing that decides it is sampled.
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
            decisive = {n: self._space[n] for n in LAYERS + BATCHES if n in self._space} | fixed
            self._misfits[key] = why_infeasible(decisive, self._shape, None)
        return self._misfits[key]

    def _why_too_large(self, values: Mapping[str, Any]) -> str | None:
        """Why the network is too large; None if that depends on what is sampled."""
        entered = {n: values[n] for n in SIZES if n in values}
        others = {n: self._space[n] for n in SIZES if n in self._space and n not in values}
        fixed = {n: domain.value for n, domain in others.items() if isinstance(domain, Fixed)}
        if self._max_parameters is None or not entered or len(fixed) < len(others):
            return None
        try:
            ModelSpec(**fixed, **entered).check(self._shape, self._max_parameters)
        except ConfigError as error:
            return error.problems[0]
        return None
