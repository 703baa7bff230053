"""What a space leaves open, in a way that suits a data set; and whether it fits that at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from crnn_search.errors import SpaceError
from crnn_search.hyperparameters import PARAMETERS, ImageShape
from crnn_search.spaces.domains import Domain, Fixed
from crnn_search.spaces.entries import EntryCheck
from crnn_search.spaces.space import Images, SearchSpace, why_infeasible

DEFAULT_SIDE = 64
"""The largest image that the default network is made for: it leaves 8 × 8 pixels of it."""


def defaults(shape: ImageShape, longest: int) -> dict[str, Any]:
    """Defaults that depend on the data: whole sequences, and more pooling for large images."""
    pooling, side = [2, 2, 2], max(shape.rows, shape.columns)
    for layer in range(len(pooling)):
        if side > DEFAULT_SIDE:
            pooling[layer], side = 4, side // 2
    return {"max_sequence_length": longest} | ({} if 4 not in pooling else {"pooling": pooling})


def fit(space: SearchSpace, images: Images, shortest: int) -> SearchSpace:
    """The space with the defaults that suit a data set. shortest: in images, of its sequences.

    Raises:
        SpaceError: the data do not fit it; every problem.
    """
    domains: dict[str, Domain] = dict(space.space)
    for name, value in defaults(images.shape, images.longest).items():
        fixed = tuple(value) if isinstance(value, list) else value
        domains.setdefault(name, Fixed(fixed))
    problems = list(_problems(space, domains, images, shortest))
    if problems:
        raise SpaceError(problems, f"the space does not fit the data in {space.task.data}:")
    return replace(space, space=domains, images=images)


def _problems(
    space: SearchSpace, domains: Mapping[str, Domain], images: Images, shortest: int
) -> Iterator[str]:
    lengths = domains["max_sequence_length"]
    low = 1 if space.task.longer != "drop" else shortest
    highest = int(PARAMETERS["max_sequence_length"].high)
    wrong = [
        n for n in range(1, highest + 1) if lengths.contains(n) and not low <= n <= images.longest
    ]
    if wrong:
        rule = f"from {low}, the images of the shortest training sequence, to {images.longest}"
        yield f"space.max_sequence_length must be {rule}, of the longest one, got {wrong[-1]}"
    reuse = domains.get("reuse", Fixed(1))
    if several := [n for n in range(2, int(PARAMETERS["reuse"].high) + 1) if reuse.contains(n)]:
        rule = "1, since the targets of newly combined images are known for sums of digits only"
        yield f"space.reuse must be {rule}, got {several[-1]}"
    if reason := why_infeasible(domains, images.shape, space.search.max_parameters):
        yield f"space: no sample is feasible: {reason}"
        return
    check = EntryCheck(domains, images.shape, space.search.max_parameters)
    for number, entry in enumerate(space.first):
        if reason := check.why_infeasible(entry):
            yield f"first[{number}]: is infeasible: {reason}"
