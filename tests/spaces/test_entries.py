"""Entries of `first` whose network is too large, whatever else is sampled."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crnn_search.errors import ConfigError
from crnn_search.hyperparameters import MNIST_SHAPE, ModelSpec
from crnn_search.spaces.entries import SIZES, never_larger
from crnn_search.spaces.file import parse_space
from tests.spaces.examples import problems

SPACE = """\
space:
  conv_channels: {list_of: {int: [4, 64]}, length: [1, 3]}
  gru_sizes: {list_of: {int: [8, 256]}, length: [1, 2]}
  embedding: {choice: [0, 32, 64]}
  batch_norm: {choice: [yes, no]}
  dropout: {float: [0, 0.5]}
"""


def first(entry: str, max_parameters: int) -> str:
    return f"search: {{max_parameters: {max_parameters}}}\nfirst:\n  - {entry}\n{SPACE}"


def count(**values: Any) -> int:
    return ModelSpec(**values).parameter_count(MNIST_SHAPE)


def test_a_whole_network_that_is_too_large_is_refused() -> None:
    entry = "{conv_channels: [16, 32], gru_sizes: [64], embedding: 0, batch_norm: yes}"
    parameters = count(conv_channels=[16, 32], gru_sizes=[64])
    assert problems(first(entry, parameters - 1)) == [
        f"space.yaml:3: first[0]: is infeasible: the network has {parameters:,} parameters; "
        f"search.max_parameters is {parameters - 1:,}"
    ]
    assert len(parse_space(first(entry, parameters)).first) == 1


@pytest.mark.parametrize(
    ("entry", "smallest"),
    [
        ("{gru_sizes: [250, 250]}", 570_000),
        ("{conv_channels: [64, 64, 64]}", 90_000),
        ("{gru_sizes: [250, 250], embedding: 64, dropout: 0.1}", 610_000),
    ],
)
def test_an_entry_is_refused_if_no_sample_completes_it(entry: str, smallest: int) -> None:
    """Found by sampling, so the smallest network is not known to the last parameter."""
    (found,) = problems(first(entry, int(0.9 * smallest)))
    assert found.startswith("space.yaml:3: first[0]: is infeasible: the network has ")
    assert len(parse_space(first(entry, int(1.25 * smallest))).first) == 1


@pytest.mark.parametrize("entry", ["{}", "{dropout: 0.1}", "{embedding: 32}"])
def test_an_entry_without_a_large_part_is_valid(entry: str) -> None:
    assert len(parse_space(first(entry, 60_000)).first) == 1


def test_values_that_the_space_does_not_name_are_the_defaults() -> None:
    space = "first: [{gru_sizes: 99}]\nspace: {gru_sizes: {list_of: {int: [9, 99]}, length: 1}}\n"
    parameters = count(gru_sizes=[99])
    assert len(parse_space(space, [f"search.max_parameters={parameters}"]).first) == 1
    assert problems(space, [f"search.max_parameters={parameters - 1}"]) == [
        f"space.yaml:1: first[0]: is infeasible: the network has {parameters:,} parameters; "
        f"search.max_parameters is {parameters - 1:,}"
    ]


def test_a_space_without_a_feasible_sample_is_one_problem() -> None:
    (found,) = problems(first("{gru_sizes: [250, 250]}", 50))
    assert ": space: no sample is feasible: the network has " in found


widths = st.lists(st.integers(1, 9), min_size=1, max_size=3)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Values of some names, and others with which a network may be larger."""
    channels, units, embedding = draw(widths), draw(widths), draw(st.integers(0, 9))
    alike = {
        "kernel_size": draw(st.sampled_from([(3,), (5, 3)])),
        "pooling": draw(st.sampled_from([(2,), (3,)])),
        "padding": draw(st.sampled_from(["same", "valid"])),
    }
    more = st.integers(0, 9)
    smaller = {
        "conv_channels": tuple(channels),
        "gru_sizes": tuple(units),
        "embedding": embedding,
        "batch_norm": draw(st.booleans()),
    }
    larger = {
        "conv_channels": tuple(n + draw(more) for n in channels),
        "gru_sizes": (*(n + draw(more) for n in units), *draw(st.just([]) | widths))[:4],
        "embedding": embedding + draw(more) if embedding else 0,
        "batch_norm": smaller["batch_norm"] or draw(st.booleans()),
    }
    names = draw(st.sets(st.sampled_from(SIZES)))
    smaller, larger = alike | smaller, alike | larger
    return {name: smaller[name] for name in names}, {name: larger[name] for name in names}


@given(pairs(), pairs())
def test_never_larger(
    pair: tuple[dict[str, Any], dict[str, Any]], rest: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    """Nor can it not be built where the other one can."""
    smaller, larger = pair
    assert never_larger(smaller, larger)
    try:
        parameters = count(**{**rest[0], **larger})
    except ConfigError:
        with pytest.raises(ConfigError, match="leaves no pixels"):
            count(**{**rest[0], **smaller})
    else:
        assert count(**{**rest[0], **smaller}) <= parameters


@pytest.mark.parametrize(
    ("values", "other"),
    [
        ({"conv_channels": (4,)}, {"conv_channels": (4, 4)}),  # more pixels are left
        ({"gru_sizes": (4, 4)}, {"gru_sizes": (9,)}),
        ({"gru_sizes": (4, 5)}, {"gru_sizes": (4, 4)}),
        ({"embedding": 0}, {"embedding": 8}),
        ({"embedding": 8}, {"embedding": 0}),
        ({"batch_norm": True}, {"batch_norm": False}),
        ({"kernel_size": (3,)}, {"kernel_size": (5,)}),
        ({"pooling": (4,)}, {"pooling": (2,)}),
    ],
)
def test_may_be_larger(values: dict[str, Any], other: dict[str, Any]) -> None:
    assert not never_larger(values, other)


@pytest.mark.parametrize(
    ("entry", "max_parameters", "number"),
    [
        ("{{gru_sizes: [{0}, {1}]}}", 5_000_000, 10_000),
        ("{{gru_sizes: [{0}, {1}]}}", 1_000_000, 2_000),
        ("{{conv_channels: [{0}, {1}, 999]}}", 5_000_000, 2_000),
    ],
)
def test_many_entries_are_checked_fast(entry: str, max_parameters: int, number: int) -> None:
    """However many samples complete each."""
    entries = [entry.format(400 + n % 100, 400 + n // 100) for n in range(number)]
    space = SPACE.replace("[4, 64]", "[4, 1000]").replace("[8, 256]", "[8, 1000]")
    lines = "".join(f"  - {text}\n" for text in entries)
    text = f"search: {{max_parameters: {max_parameters}}}\nfirst:\n{lines}{space}"
    started = time.process_time()
    if number == 10_000:
        assert len(parse_space(text).first) == len(entries)
    else:
        assert len(problems(text)) == len(entries)
    assert time.process_time() - started < 4, "about one second where nothing else runs"
