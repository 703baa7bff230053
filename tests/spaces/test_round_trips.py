"""Random search spaces: YAML to domains and back, samples to Optuna's parameters and back."""

from __future__ import annotations

import json
import random
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from optuna.trial import FixedTrial

from crnn_search.errors import SpaceError
from crnn_search.hyperparameters import PARAMETERS, Rule, TrialConfig
from crnn_search.spaces.domain_parser import MAX_STEPS
from crnn_search.spaces.file import parse_space
from crnn_search.spaces.sections import ResourcesSpec
from crnn_search.spaces.space import sample, to_yaml
from tests.spaces.examples import FULL

# So that every sample is feasible: three layers of 3×3 valid and pooling 2 leave one pixel, and
# every batch size is a multiple of 1.
FEASIBLE = {
    "conv_channels": {"max_length": 3},
    "kernel_size": {"high": 3},
    "pooling": {"high": 2},
    "reuse": {"high": 1},
}


def limits(name: str) -> Rule:
    narrow = {"max_sequence_length": {"high": 8}} | FEASIBLE
    return Rule(**(vars(PARAMETERS[name]) | narrow.get(name, {})))


@st.composite
def int_ranges(draw: DrawFn, rule: Rule) -> dict[str, Any]:
    low, high = int(rule.low), int(rule.high)
    if draw(st.booleans()):
        first = draw(st.integers(low, high))
        step = draw(st.integers(1, high))
        count = draw(st.integers(0, min((high - first) // step, MAX_STEPS)))
        return {"int": [first, first + count * step], "step": step}
    bounds = sorted(draw(st.tuples(st.integers(low, high), st.integers(low, high))))
    return {"int": bounds, "log": bounds[0] > 0 and draw(st.booleans())}


@st.composite
def float_ranges(draw: DrawFn, rule: Rule) -> dict[str, Any]:
    if draw(st.booleans()):  # in hundredths, which no float has exactly
        high = int(rule.high * 100)
        first, step = draw(st.integers(1, high)), draw(st.integers(1, high))
        last = first + step * draw(st.integers(0, min((high - first) // step, MAX_STEPS)))
        return {"float": [first / 100, last / 100], "step": step / 100}
    value = st.floats(rule.low, rule.high, allow_subnormal=False)
    bounds = sorted(draw(st.tuples(value, value)))
    return {"float": bounds, "log": bounds[0] > 0 and draw(st.booleans())}


def values(rule: Rule) -> st.SearchStrategy[Any]:
    """Valid values."""
    whole = st.integers(int(max(rule.low, 0)), int(min(rule.high, 1e6)))
    return {
        "int": whole,
        "float": st.floats(max(rule.low, 0), min(rule.high, 1e6), allow_subnormal=False),
        "bool": st.booleans(),
        "choice": st.sampled_from(rule.choices or [""]),
        "int_list": st.lists(whole, min_size=1, max_size=max(rule.max_length, 1)),
    }[rule.kind]


@st.composite
def lists_of(draw: DrawFn, rule: Rule) -> dict[str, Any]:
    item = Rule("int", "", rule.low, rule.high)
    length = st.integers(1, rule.max_length)
    lengths = length | st.tuples(length, length).map(sorted)
    return {"list_of": draw(domains(item)), "length": draw(lengths)}


def domains(rule: Rule) -> st.SearchStrategy[Any]:
    """Domains as in a file."""
    choice = st.lists(values(rule), min_size=1, max_size=4, unique_by=str)
    ranges = {"int": int_ranges, "float": float_ranges, "int_list": lists_of}
    plain = values(rule) | choice.map(lambda options: {"choice": options})
    return plain | ranges[rule.kind](rule) if rule.kind in ranges else plain


SPACES = st.fixed_dictionaries({}, optional={name: domains(limits(name)) for name in PARAMETERS})
RESOURCES = st.fixed_dictionaries(
    {},
    optional={
        "cpus_per_trial": st.floats(0.0001, 64),
        "gpus_per_trial": st.sampled_from(["auto", 0, 2]) | st.floats(0.0001, 1),
        "precision": st.sampled_from(["auto", "float32", "bfloat16"]),
        "cpu_kernels": st.sampled_from(["off", False]),
    },
)


@given(raw=SPACES, resources=RESOURCES, seed=st.integers(0, 2**31))
def test_round_trips_of_random_spaces(
    raw: dict[str, Any], resources: dict[str, Any], seed: int
) -> None:
    values = {"search": {"seed": seed}, "resources": resources, "space": raw}
    space = parse_space(yaml.safe_dump(values))
    assert space.space.keys() == raw.keys()
    expected = {"cpu_kernels": "off" if "cpu_kernels" in resources else "auto"}
    assert space.resources.model_dump() == ResourcesSpec().model_dump() | resources | expected
    assert parse_space(to_yaml(space)) == space
    for config in sample(space, seed, 3):
        assert not space.problems_of(config)
        trial = FixedTrial(space.to_params(config))
        assert space.suggest(trial) == config
        assert space.distributions(config) == trial.distributions
        assert trial.params == space.to_params(config)  # nothing else was suggested
        full = TrialConfig.from_dict(config).to_dict()
        assert full | config == full
        assert not space.problems_of(full)  # names that the space lacks have their defaults


@given(raw=SPACES, data=st.data())
def test_first_takes_any_part_of_a_configuration(raw: dict[str, Any], data: st.DataObject) -> None:
    space = parse_space(json.dumps({"space": raw}))
    config = sample(space, 0, 1)[0]
    names = data.draw(st.sets(st.sampled_from(sorted(config)))) if config else set()
    first = {name: config[name] for name in names}
    again = parse_space(json.dumps({"space": raw, "first": [first]}))
    assert again.first == (first,)
    assert set(again.to_params(first)) == set(again.distributions(first))
    assert parse_space(to_yaml(again)) == again


@given(cuts=st.lists(st.integers(0, len(FULL)), min_size=2, max_size=6), seed=st.integers(0, 9))
def test_scrambled_files_raise_nothing_but_space_errors(cuts: list[int], seed: int) -> None:
    parts = [FULL[a:b] for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), None], strict=True)]
    random.Random(seed).shuffle(parts)
    assert all(problem.startswith("space.yaml:") for problem in outcome("".join(parts)))


def outcome(text: str) -> list[str]:
    try:
        parse_space(text)
    except SpaceError as error:
        return error.problems
    return []
