"""Search spaces: files, domains, Optuna's side of them, and every error with its line."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from optuna.trial import FixedTrial

from crnn_search.errors import ConfigError, SpaceError
from crnn_search.hyperparameters import PARAMETERS, Rule, TrialConfig
from crnn_search.spaces.domains import Choice, Fixed, FloatRange, IntRange, ListOf
from crnn_search.spaces.file import load_space, parse_space
from crnn_search.spaces.space import (
    ResourcesSpec,
    RetrainSpec,
    SearchSpace,
    SearchSpec,
    TaskSpec,
    sample,
    to_yaml,
)

FULL = """\
task: {max_digits: 8}
search: {trials: 16, max_epochs: 27, grace_epochs: 1, reduction_factor: 3, epoch_sequences: 6000,
         max_concurrent_trials: auto, seed: 0}
retrain: {epochs: 40, seeds: 3, finalists: 3}
resources: {cpus_per_trial: 1, gpus_per_trial: auto}
first:
  - {conv_channels: [16, 32], learning_rate: 0.003}
space:
  conv_channels: {list_of: {int: [8, 64], log: true}, length: [1, 4]}
  gru_sizes: {list_of: {int: [32, 256], log: true}, length: [1, 3]}
  dropout: {float: [0.0, 0.5]}
  max_sequence_length: {int: [2, 8]}
  learning_rate: {float: [1.0e-4, 2.0e-2], log: true}
  batch_size: {choice: [64, 128, 256, 512]}
  optimizer: adamw
  kernel_size: {choice: [3, 5, [4, 3]]}
"""


def problems(text: str, overrides: list[str] | None = None) -> list[str]:
    """What is wrong with a space."""
    with pytest.raises(SpaceError, match=r".") as caught:
        parse_space(text, overrides or [])
    return caught.value.problems


def of_space(*lines: str) -> SearchSpace:
    """A space of lines `name: domain`."""
    return parse_space("space:\n" + "".join(f"  {line}\n" for line in lines))


# --- what a file says -----------------------------------------------------------------------------


def test_full_file_is_understood() -> None:
    space = parse_space(FULL)
    assert space.task == TaskSpec(max_digits=8)
    assert space.search == SearchSpec(trials=16, epoch_sequences=6000)
    assert space.retrain == RetrainSpec(epoch_sequences=6000)
    assert space.first == ({"conv_channels": [16, 32], "learning_rate": 0.003},)
    assert space.space == {
        "conv_channels": ListOf(IntRange(8, 64, log=True), 1, 4),
        "gru_sizes": ListOf(IntRange(32, 256, log=True), 1, 3),
        "dropout": FloatRange(0.0, 0.5),
        "max_sequence_length": IntRange(2, 8),
        "learning_rate": FloatRange(1e-4, 2e-2, log=True),
        "batch_size": Choice((64, 128, 256, 512)),
        "optimizer": Fixed("adamw"),
        "kernel_size": Choice(((3,), (5,), (4, 3))),
    }


def test_only_the_section_space_is_needed_and_others_have_defaults() -> None:
    space = parse_space("space: {}\nsearch:\nfirst:\n")
    assert (space.task, space.search, space.retrain) == (TaskSpec(), SearchSpec(), RetrainSpec())
    assert space.resources == ResourcesSpec(cpus_per_trial=1, gpus_per_trial="auto")
    assert space.first == ()
    assert sample(space, 0, 2) == [{}, {}]
    assert space.search.model_dump() == {
        "trials": 64,
        "max_epochs": 27,
        "grace_epochs": 1,
        "reduction_factor": 3,
        "epoch_sequences": 60_000,
        "max_concurrent_trials": "auto",
        "seed": 0,
    }


def test_retraining_may_have_its_own_epoch_sequences() -> None:
    space = parse_space("retrain: {epoch_sequences: 9}\nspace: {}\n")
    assert (space.retrain.epoch_sequences, space.search.epoch_sequences) == (9, 60_000)


@pytest.mark.parametrize(
    ("line", "domain"),
    [
        ("learning_rate: 1e-3", Fixed(0.001)),  # a text in YAML 1.1
        ("learning_rate: {float: [1e-4, 2E-2]}", FloatRange(1e-4, 2e-2)),
        ("dropout: 0", Fixed(0.0)),
        ("dropout: .5", Fixed(0.5)),
        ("dropout: {float: [0, 0.3], step: 0.1}", FloatRange(0.0, 0.3, step=0.1)),
        ("batch_size: 1_024", Fixed(1024)),
        ("batch_size: {int: [32, 128], step: 32}", IntRange(32, 128, step=32)),
        ("batch_norm: {choice: [yes, off]}", Choice((True, False))),
        ("kernel_size: 3", Fixed((3,))),
        ("kernel_size: [5, 3]", Fixed((5, 3))),
        ("pooling: {list_of: {choice: [1, 2]}, length: 2}", ListOf(Choice((1, 2)), 2, 2)),
        ("gru_sizes: {list_of: 64, length: [1, 2]}", ListOf(Fixed(64), 1, 2)),
        ("padding: {choice: [same, valid]}", Choice(("same", "valid"))),
    ],
)
def test_domains(line: str, domain: Any) -> None:
    space = of_space(line)
    assert list(space.space.values()) == [domain]
    assert parse_space(to_yaml(space)) == space


def test_a_file_is_read_as_utf_8_with_or_without_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes("\ufeffspace: {dropout: 0.1}  # ü\n".encode())
    assert load_space(path).space == {"dropout": Fixed(0.1)}


# --- Optuna's side --------------------------------------------------------------------------------


def test_names_in_optuna_and_no_more_items_than_the_length() -> None:
    space = parse_space(FULL)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask()
        config = space.suggest(trial)
        expected = {"dropout", "max_sequence_length", "learning_rate", "batch_size", "kernel_size"}
        for name in ("conv_channels", "gru_sizes"):
            expected |= {f"{name}.length", *(f"{name}.{i}" for i in range(len(config[name])))}
        assert set(trial.params) == expected
        assert trial.params["kernel_size"] == json.dumps(config["kernel_size"])
        assert space.to_params(config) == trial.params
        assert space.distributions(config) == trial.distributions
        json.dumps(config)


def test_a_fixed_length_is_not_asked() -> None:
    trial = FixedTrial({"gru_sizes.0": 9, "gru_sizes.1": 8})
    space = of_space("gru_sizes: {list_of: {int: [1, 9]}, length: 2}")
    assert space.suggest(trial) == {"gru_sizes": [9, 8]}
    assert list(trial.params) == ["gru_sizes.0", "gru_sizes.1"]


def test_first_can_be_enqueued_and_what_it_lacks_is_sampled() -> None:
    space = parse_space(FULL)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(space.to_params(space.first[0]))
    config = space.suggest(study.ask())
    assert config["conv_channels"] == [16, 32]
    assert config["learning_rate"] == 0.003
    assert set(config) == set(space.space)


def test_a_warm_start_can_be_told() -> None:
    space = parse_space(FULL)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=1))
    for config in sample(space, 0, 5):
        study.add_trial(
            optuna.trial.create_trial(
                params=space.to_params(config),
                distributions=space.distributions(config),
                value=config["dropout"],
            )
        )
    space.suggest(study.ask())


def test_partial_configurations_have_only_their_own_parameters() -> None:
    space = parse_space(FULL)
    partial = {"kernel_size": 5, "gru_sizes": (64,), "optimizer": "adamw", "weight_decay": 0}
    params = {"kernel_size": "[5]", "gru_sizes.length": 1, "gru_sizes.0": 64}
    assert space.to_params(partial) == params
    assert space.distributions(partial).keys() == params.keys()


def test_changing_a_suggestion_leaves_the_space_alone() -> None:
    space = of_space("kernel_size: {choice: [[4, 3]]}", "pooling: [2, 1]")
    config = sample(space, 0, 1)[0]
    config["kernel_size"].append(9)
    config["pooling"].clear()
    assert sample(space, 0, 1) == [{"kernel_size": [4, 3], "pooling": [2, 1]}]


# --- bounds, membership, sampling -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "low", "high"),
    [
        ("batch_size: {int: [1, 3]}", 1, 3),
        ("batch_size: {int: [1, 3], log: true}", 1, 3),
        ("batch_size: {int: [10, 30], step: 10}", 10, 30),
        ("dropout: {float: [0.1, 0.3], step: 0.1}", 0.1, 0.3),
        ("max_sequence_length: {int: [8, 8]}", 8, 8),
    ],
)
def test_both_bounds_are_reached_here_and_in_optuna(line: str, low: float, high: float) -> None:
    space = of_space(line)
    name = line.partition(":")[0]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for drawn in (sample(space, 0, 60), [space.suggest(study.ask()) for _ in range(60)]):
        assert min(config[name] for config in drawn) == low
        assert max(config[name] for config in drawn) == high


@pytest.mark.parametrize("log", ["true", "false"])
def test_float_bounds_belong_to_the_space(log: str) -> None:
    space = of_space(f"learning_rate: {{float: [1e-4, 1e-2], log: {log}}}")
    for value in (1e-4, 1e-2):
        config = {"learning_rate": value}
        assert space.suggest(FixedTrial(space.to_params(config))) == config
    drawn = [config["learning_rate"] for config in sample(space, 0, 500)]
    assert 1e-4 <= min(drawn) < 3e-4
    assert max(drawn) <= 1e-2
    assert (sorted(drawn)[250] < 2e-3) is (log == "true")  # half of them below the middle in log


def test_list_lengths_reach_both_bounds() -> None:
    drawn = sample(parse_space(FULL), 0, 60)
    assert {len(config["conv_channels"]) for config in drawn} == {1, 2, 3, 4}


def test_equal_seeds_sample_equally() -> None:
    space = parse_space(FULL)
    assert sample(space, 3, 5) == sample(space, 3, 5) != sample(space, 4, 5)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"dropout": 0.6}, "dropout: must be a number from 0.0 to 0.5, got 0.6"),
        ({"dropout": True}, "dropout: must be a number from 0 to 0.95, got True"),
        ({"batch_size": 65}, "batch_size: must be one of 64, 128, 256, 512, got 65"),
        ({"batch_size": True}, "batch_size: must be a whole number from 1 to 65536, got True"),
        ({"optimizer": "rmsprop"}, "optimizer: must be 'adamw', which is fixed, got 'rmsprop'"),
        (
            {"weight_decay": 0.1},
            "weight_decay: must be 0.0, which is fixed by default, as space does not name it, "
            "got 0.1",
        ),
        ({"kernel_size": [3, 3]}, "kernel_size: must be one of [3], [5], [4, 3], got [3, 3]"),
        (
            {"gru_sizes": [31]},
            "gru_sizes: must be a list of 1 to 3 items, each a whole number from 32 to 256, "
            "got [31]",
        ),
        (
            {"gru_sizes": [32] * 4},
            "gru_sizes: must be a list of 1 to 3 items, each a whole number from 32 to 256, "
            "got [32, 32, 32, 32]",
        ),
    ],
)
def test_what_is_not_in_the_space(config: dict[str, Any], problem: str) -> None:
    space = parse_space(FULL)
    assert space.problems_of(config) == [problem]
    assert not space.contains(config)
    with pytest.raises(ConfigError, match=re.escape(problem)):
        space.to_params(config)
    with pytest.raises(ConfigError, match=re.escape(problem)):
        space.distributions(config)


def test_problems_of_a_configuration_come_all_at_once() -> None:
    space = parse_space(FULL)
    found = space.problems_of({"dropuot": 0.1, "dropout": "much", "batch_size": 3})
    assert [problem.partition(":")[0] for problem in found] == ["dropuot", "dropout", "batch_size"]
    assert "did you mean dropout?" in found[0]


def test_steps_are_kept_in_membership() -> None:
    space = of_space(
        "dropout: {float: [0.0, 0.3], step: 0.1}", "batch_size: {int: [2, 8], step: 2}"
    )
    assert space.contains({"dropout": 0.1 + 0.2, "batch_size": 8}) is False  # above 0.3 by rounding
    assert space.contains({"dropout": 0.3, "batch_size": 8})
    assert space.problems_of({"dropout": 0.15, "batch_size": 3}) == [
        "dropout: must be a number from 0.0 to 0.3 in steps of 0.1, got 0.15",
        "batch_size: must be a whole number from 2 to 8 in steps of 2, got 3",
    ]


def test_share_of_impossible_networks() -> None:
    depth = "conv_channels: {list_of: 8, length: [1, 4]}"
    assert of_space(depth).infeasible_share() == 0.0
    assert 0.3 < of_space(depth, "pooling: 4").infeasible_share() < 0.7  # 28, 7, 1, none


# --- round trips ----------------------------------------------------------------------------------

# So that every network can be built: three layers of 3×3 valid and pooling 2 leave one pixel.
SMALL = {"conv_channels": {"max_length": 3}, "kernel_size": {"high": 3}, "pooling": {"high": 2}}


def limits(name: str) -> Rule:
    narrow = {"max_sequence_length": {"high": 8}} | SMALL
    return Rule(**(vars(PARAMETERS[name]) | narrow.get(name, {})))


@st.composite
def int_ranges(draw: DrawFn, rule: Rule) -> dict[str, Any]:
    low, high = int(rule.low), int(rule.high)
    if draw(st.booleans()):
        first = draw(st.integers(low, high))
        step = draw(st.integers(1, high))
        count = draw(st.integers(0, (high - first) // step))
        return {"int": [first, first + count * step], "step": step}
    bounds = sorted(draw(st.tuples(st.integers(low, high), st.integers(low, high))))
    return {"int": bounds, "log": bounds[0] > 0 and draw(st.booleans())}


@st.composite
def float_ranges(draw: DrawFn, rule: Rule) -> dict[str, Any]:
    if draw(st.booleans()):  # in hundredths, which no float has exactly
        high = int(rule.high * 100)
        first, step = draw(st.integers(1, high)), draw(st.integers(1, high))
        last = first + step * draw(st.integers(0, (high - first) // step))
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


@settings(max_examples=60, deadline=None, derandomize=True)
@given(raw=SPACES, seed=st.integers(0, 2**31))
def test_round_trips_of_random_spaces(raw: dict[str, Any], seed: int) -> None:
    space = parse_space(yaml.safe_dump({"search": {"seed": seed}, "space": raw}))
    assert space.space.keys() == raw.keys()
    assert parse_space(to_yaml(space)) == space
    for config in sample(space, seed, 3):
        assert space.contains(config)
        trial = FixedTrial(space.to_params(config))
        assert space.suggest(trial) == config
        assert space.distributions(config) == trial.distributions
        assert trial.params == space.to_params(config)  # nothing more was asked
        full = TrialConfig.from_dict(config).to_dict()
        assert full | config == full
        assert space.contains(full)  # names that the space lacks have their defaults


@settings(max_examples=20, deadline=None, derandomize=True)
@given(raw=SPACES, data=st.data())
def test_any_part_of_a_configuration_can_be_tried_first(
    raw: dict[str, Any], data: st.DataObject
) -> None:
    space = parse_space(json.dumps({"space": raw}))
    config = sample(space, 0, 1)[0]
    names = data.draw(st.sets(st.sampled_from(sorted(config)))) if config else set()
    first = {name: config[name] for name in names}
    again = parse_space(json.dumps({"space": raw, "first": [first]}))
    assert again.first == (first,)
    assert set(again.to_params(first)) == set(again.distributions(first))
    assert parse_space(to_yaml(again)) == again


@settings(max_examples=100, deadline=None, derandomize=True)
@given(cuts=st.lists(st.integers(0, len(FULL)), min_size=2, max_size=6), seed=st.integers(0, 9))
def test_scrambled_files_give_a_space_or_a_space_error(cuts: list[int], seed: int) -> None:
    parts = [FULL[a:b] for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), None], strict=True)]
    random.Random(seed).shuffle(parts)
    assert all(problem.startswith("space.yaml:") for problem in outcome("".join(parts)))


def outcome(text: str) -> list[str]:
    try:
        parse_space(text)
    except SpaceError as error:
        return error.problems
    return []


# --- errors ---------------------------------------------------------------------------------------

INT_64 = "must be a whole number from 1 to 65536"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1: must be a mapping with a section space, got nothing: the file is empty"),
        ("# only a comment\n", "1: must be a mapping with a section space, got nothing"),
        ("- space\n", "1: must be a mapping with a section space, got ['space']"),
        ("task: {}\n", "1: space: must be a mapping of hyperparameters ({} searches nothing), got"),
        ("task: {}\nspace:\n", "2: space: must be a mapping of hyperparameters"),
        ("space: {}\nspace: {}\n", "2: space: the key is given twice, first on line 1"),
        ("space: {}\n\nserach: {}\n", "3: serach: unknown name 'serach'; did you mean search?"),
        ("space:\n  ? [1]\n  : 2\n", "2: space: a key must be a word, got a list or mapping"),
        ("space: {}\nsearch: 3\n", "2: search: must be a mapping, got 3"),
        ("space: {}\nfirst: {}\n", "2: first: must be a list of configurations, got {}"),
        ("space: {}\nfirst:\n- 3\n", "3: first[0]: must be a mapping of hyperparameters, got 3"),
    ],
)
def test_errors_of_sections(text: str, problem: str) -> None:
    (found,) = problems(text)
    assert found.startswith(f"space.yaml:{problem}")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("space:\n  dropout: [0.1\n", "space.yaml:3: not YAML: while parsing a flow sequence: exp"),
        ("space:\n\tdropout: 0\n", "space.yaml:2: not YAML: while scanning for the next token"),
        ("space: {}\n---\nspace: {}\n", "space.yaml:2: not YAML: expected a single document"),
        ("space: {dropout: \x00}", "space.yaml: not YAML: unacceptable character"),
        ("[" * 3000, "space.yaml: not YAML that can be read: nested too deeply"),
        ("a: &x 1\n", "space.yaml:1: not YAML: anchors, aliases and tags are not supported"),
        ("a: 1\nb: *x\n", "space.yaml:2: not YAML: anchors, aliases and tags are not supported"),
        ("a: !!python/name:os.system\n", "space.yaml:1: not YAML: anchors, aliases and tags"),
    ],
)
def test_errors_of_yaml(text: str, problem: str) -> None:
    (found,) = problems(text)
    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("task: {max_digits: 0}", "task.max_digits: must be a whole number from 1 to 64, got 0"),
        ("task: {max_digits: 65}", "task.max_digits: must be a whole number from 1 to 64, got 65"),
        ("search: {trials: 0}", "search.trials: must be a whole number of at least 1, got 0"),
        ("search: {trials: yes}", "search.trials: must be a whole number of at least 1, got True"),
        ("search: {trials: 3.0}", "search.trials: must be a whole number of at least 1, got 3.0"),
        ("search: {trials: '3'}", "search.trials: must be a whole number of at least 1, got '3'"),
        ("search: {trials: 010}", "search.trials: must be a whole number of at least 1, got '010'"),
        ("search: {max_epochs: 0}", "search.max_epochs: must be a whole number of at least 1, got"),
        ("search: {grace_epochs: 0}", "search.grace_epochs: must be a whole number of at least 1"),
        (
            "search: {grace_epochs: 9, max_epochs: 3}",
            "search.grace_epochs: must be at most max_epochs, which is 3, got 9",
        ),
        (
            "search: {reduction_factor: 1}",
            "search.reduction_factor: must be a whole number of at l",
        ),
        ("search: {epoch_sequences: 0}", "search.epoch_sequences: must be a whole number of at le"),
        (
            "search: {max_concurrent_trials: 0}",
            "search.max_concurrent_trials: must be auto or a whole number of at least 1, got 0",
        ),
        ("search: {seed: -1}", "search.seed: must be a whole number from 0 to 2147483648, got -1"),
        ("search: {seed: 2147483649}", "search.seed: must be a whole number from 0 to 2147483648"),
        ("search: {trails: 1}", "search.trails: unknown name 'trails'; did you mean trials?"),
        ("retrain: {finalists: 0}", "retrain.finalists: must be a whole number of at least 1"),
        ("retrain: {seeds: 0}", "retrain.seeds: must be a whole number of at least 1, got 0"),
        ("retrain: {epochs: 0}", "retrain.epochs: must be a whole number of at least 1, got 0"),
        ("retrain: {epoch_sequences: 0}", "retrain.epoch_sequences: must be a whole number of at"),
        ("resources: {cpus_per_trial: 0}", "resources.cpus_per_trial: must be a number above 0"),
        ("resources: {cpus_per_trial: 1e999}", "resources.cpus_per_trial: must be a number above"),
        (
            "resources: {gpus_per_trial: -0.5}",
            "resources.gpus_per_trial: must be auto or a number of at least 0, got -0.5",
        ),
        (
            "resources: {gpus_per_trial: all}",
            "resources.gpus_per_trial: must be auto or a number of at least 0, got 'all'",
        ),
    ],
)
def test_errors_of_specs(section: str, problem: str) -> None:
    (found,) = problems(f"space: {{}}\n{section}\n")
    assert found.startswith(f"space.yaml:2: {problem}")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("dropuot: 0.1", "dropuot: unknown name 'dropuot'; did you mean dropout?"),
        ("batch_size: 0", f"batch_size: {INT_64}, got 0"),
        ("batch_size: -64", f"batch_size: {INT_64}, got -64"),
        ("batch_size: 64.0", f"batch_size: {INT_64}, got 64.0"),
        ("batch_size: yes", f"batch_size: {INT_64}, got True"),
        ("batch_size: 1:30", f"batch_size: {INT_64}, got '1:30'"),
        ("batch_size:", f"batch_size: {INT_64}, got None"),
        ("batch_norm: 1", "batch_norm: must be true or false, got 1"),
        ("optimizer: adam", "optimizer: must be one of adamw, rmsprop, got 'adam'"),
        ("optimizer: no", "optimizer: must be one of adamw, rmsprop, got False"),
        ("dropout: .nan", "dropout: must be a number from 0 to 0.95, got '.nan'"),
        ("gru_sizes: []", "gru_sizes: must be a list of 1 to 4 whole numbers from 1 to 2048, got"),
        ("batch_size: {}", "batch_size: must have one of int, float, choice, list_of, got {}"),
        ("batch_size: {int: [1, 2], choice: [3]}", "batch_size: must have one of int, float, cho"),
        (
            "batch_size: {integer: [1, 2]}",
            "batch_size: unknown domain: unknown name 'integer'; did you mean int? (valid names: "
            "choice, float, int, list_of)",
        ),
        (
            "batch_size: {int: [1, 2], lag: true}",
            "batch_size.lag: unknown name 'lag'; did you mean log? (valid names: int, log, step)",
        ),
        (
            "learning_rate: {int: [1, 2]}",
            "learning_rate: must be a number from 1e-07 to 1: use float or choice, got int",
        ),
        ("batch_size: {float: [1, 2]}", f"batch_size: {INT_64}: use int or choice, got float"),
        (
            "padding: {int: [1, 2]}",
            "padding: must be one of same, valid: use choice, got int",
        ),
        (
            "batch_norm: {list_of: yes}",
            "batch_norm: must be true or false: use choice, got list_of",
        ),
        (
            "gru_sizes: {int: [1, 2]}",
            "gru_sizes: must be a list of 1 to 4 whole numbers from 1 to 2048: use list_of or "
            "choice, got int",
        ),
        (
            "batch_size: {list_of: {int: [1, 2]}, length: 1}",
            f"batch_size: {INT_64}: use int or choice, got list_of",
        ),
        ("batch_size: {int: 3}", "batch_size.int: must be two bounds, [low, high], got 3"),
        ("batch_size: {int: [3]}", "batch_size.int: must be two bounds, [low, high], got [3]"),
        ("batch_size: {int: [9, 3]}", "batch_size.int: low must be at most high, got [9, 3]"),
        (
            "batch_size: {int: [1, a]}",
            "batch_size.int: each bound must be a whole number from 1 to",
        ),
        (
            "batch_size: {int: [0, 3]}",
            "batch_size.int: each bound must be a whole number from 1 to",
        ),
        ("batch_size: {int: [1, 3.5]}", "batch_size.int: each bound must be a whole number from"),
        ("dropout: {float: [0, 1.5]}", "dropout.float: each bound must be a number from 0 to 0.95"),
        (
            "dropout: {float: [0, 0.5], log: true}",
            "dropout.log: log: true needs a lower bound above 0, got 0.0",
        ),
        (
            "embedding: {int: [0, 64], log: true}",
            "embedding.log: log: true needs a lower bound above 0, got 0",
        ),
        ("batch_size: {int: [1, 2], log: 1}", "batch_size.log: must be true or false, got 1"),
        (
            "batch_size: {int: [1, 3], log: true, step: 1}",
            "batch_size.step: a range has log: true or a step, not both, got step 1",
        ),
        ("batch_size: {int: [1, 3], step: 0}", "batch_size.step: must be a whole number above 0"),
        ("batch_size: {int: [1, 3], step: true}", "batch_size.step: must be a whole number above"),
        ("batch_size: {int: [1, 3], step: 0.5}", "batch_size.step: must be a whole number above 0"),
        ("dropout: {float: [0, 0.5], step: x}", "dropout.step: must be a number above 0, got 'x'"),
        (
            "dropout: {float: [0, 0.5], step: 0.2}",
            "dropout.step: must lead from 0.0 to 0.5 in 0 to 1000000 whole steps, got 0.2",
        ),
        ("dropout: {float: [0, 0.5], step: 1e-320}", "dropout.step: must lead from 0.0 to 0.5 in"),
        (
            "batch_size: {choice: 3}",
            "batch_size.choice: must be a list of at least one option, got",
        ),
        ("batch_size: {choice: []}", "batch_size.choice: must be a list of at least one option"),
        ("batch_size: {choice: [1, 0]}", f"batch_size.choice[1]: {INT_64}, got 0"),
        ("batch_size: {choice: [1, 1]}", "batch_size.choice[1]: options must differ, got 1 twice"),
        ("pooling: {choice: [2, [2]]}", "pooling.choice[1]: options must differ, got [2] twice"),
        ("dropout: {choice: [0, 0.0]}", "dropout.choice[1]: options must differ, got 0.0 twice"),
        (
            "gru_sizes: {list_of: {int: [1, 4096]}, length: 1}",
            "gru_sizes.list_of.int: each bound must be a whole number from 1 to 2048, got",
        ),
        (
            "gru_sizes: {list_of: {list_of: 8, length: 1}, length: 1}",
            "gru_sizes.list_of: must be a whole number from 1 to 2048: use int or choice, got lis",
        ),
        (
            "gru_sizes: {list_of: 8}",
            "gru_sizes.length: must be a whole number from 1 to 4 or [low, high], got none",
        ),
        (
            "gru_sizes: {list_of: 8, length: 5}",
            "gru_sizes.length: must be a whole number from 1 to 4 or [low, high], got 5",
        ),
        (
            "gru_sizes: {list_of: 8, length: [1, 5]}",
            "gru_sizes.length: each bound must be a whole number from 1 to 4, got [1, 5]",
        ),
        (
            "gru_sizes: {list_of: 8, length: [2, 1]}",
            "gru_sizes.length: low must be at most high, got [2, 1]",
        ),
        (
            "max_sequence_length: {int: [2, 9]}",
            "max_sequence_length: must be at most task.max_digits, which is 8, got 9",
        ),
        (
            "max_sequence_length: {choice: [16, 8]}",
            "max_sequence_length: must be at most task.max_digits, which is 8, got 16",
        ),
    ],
)
def test_errors_of_domains(line: str, problem: str) -> None:
    (found,) = problems(f"space:\n  weight_decay: 0\n  {line}\n")
    assert found.startswith(f"space.yaml:3: space.{problem}")


@pytest.mark.parametrize("length", ["{list_of: 8, length: [4, 6]}", "[8, 8, 8, 8]"])
def test_error_of_a_space_without_any_possible_network(length: str) -> None:
    assert problems(f"search:\n  seed: 1\nspace:\n  conv_channels: {length}\n  pooling: 4\n") == [
        "space.yaml:3: space: no sampled network can be built: convolution 3 leaves no pixels: it "
        "gets 1×1, its kernel is 3×3 (same padding), its pooling 4; use fewer conv_channels, a "
        "smaller kernel_size, a smaller pooling or padding: same"
    ]


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("{dropuot: 0.1}", "first[1].dropuot: unknown name 'dropuot'; did you mean dropout?"),
        ("{dropout: 0.5}", "first[1].dropout: must be a number from 0.0 to 0.2, got 0.5"),
        ("{dropout: a}", "first[1].dropout: must be a number from 0 to 0.95, got 'a'"),
        ("{padding: same}", "first[1].padding: must be 'valid', which is fixed, got 'same'"),
        ("{schedule: constant}", "first[1].schedule: must be 'one_cycle', which is fixed by def"),
        (
            "{conv_channels: [8, 8, 8], kernel_size: 9}",
            "first[1]: its network cannot be built: conv",
        ),
    ],
)
def test_errors_of_first(entry: str, problem: str) -> None:
    space = (
        "space: {dropout: {float: [0, 0.2]}, padding: valid, kernel_size: {choice: [3, 9]},\n"
        "  conv_channels: {list_of: 8, length: [1, 3]}}\n"
    )
    (found,) = problems(f"first:\n  - {{conv_channels: [8, 8, 8]}}\n  - {entry}\n{space}")
    assert found.startswith(f"space.yaml:3: {problem}")


def test_all_problems_come_at_once_in_the_order_of_the_file() -> None:
    found = problems(
        "space:\n"
        "  dropuot: 0.5\n"
        "  batch_size:\n"
        "    int: [0, 8]\n"
        "    log: perhaps\n"
        "search: {trials: 0,\n"
        "  seed: -1}\n"
        "first:\n"
        "  - {dropout: 3}\n"
        "resourses: {}\n",
        ["retrain.seeds=0"],
    )
    origins = [re.match(r"(.*?): (\S*):", problem) for problem in found]
    assert [match.groups() for match in origins if match] == [
        ("space.yaml:2", "space.dropuot"),
        ("space.yaml:4", "space.batch_size.int"),
        ("space.yaml:5", "space.batch_size.log"),
        ("space.yaml:6", "search.trials"),
        ("space.yaml:7", "search.seed"),
        ("space.yaml:9", "first[0].dropout"),
        ("space.yaml:10", "resourses"),
        ("--set", "retrain.seeds"),
    ]


def test_one_mistake_gives_one_problem() -> None:
    assert len(problems("first: [{dropout: 0.1}]\nspace: {dropuot: {float: [0, 0.5]}}\n")) == 1
    assert len(problems("task: {max_digits: 99}\nspace: {max_sequence_length: 16}\n")) == 1
    assert len(problems("search: {max_epochs: 0, grace_epochs: 30}\nspace: {}\n")) == 1
    assert len(problems("first: [{dropout: 0.1}]\n")) == 1


def test_errors_of_files(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"none\.yaml: cannot be read: No such file or directory"):
        load_space(tmp_path / "none.yaml")
    with pytest.raises(SpaceError, match="cannot be read: Is a directory"):
        load_space(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"space:\n  # \xfc\n")
    with pytest.raises(SpaceError, match=r"latin\.yaml:2: must be UTF-8 text, got the byte 0xfc"):
        load_space(latin)
    latin.write_text("space:\n  x: 1\n")
    with pytest.raises(SpaceError, match=r"latin\.yaml:2: space\.x: unknown name 'x'"):
        load_space(latin)


# --- overrides ------------------------------------------------------------------------------------


def test_overrides_change_replace_and_add() -> None:
    space = parse_space(
        FULL,
        [
            "search.trials=4",
            "space.dropout=0.1",
            "space.learning_rate={float: [1e-4, 1e-2], log: true}",
            "space.conv_channels.length=[2, 2]",
            "space.augmentation = {choice: [0, 1]}",
            "first=[]",
        ],
    )
    assert space.search.trials == 4
    assert space.space["dropout"] == Fixed(0.1)
    assert space.space["learning_rate"] == FloatRange(1e-4, 1e-2, log=True)
    assert space.space["conv_channels"] == ListOf(IntRange(8, 64, log=True), 2, 2)
    assert space.space["augmentation"] == Choice((0.0, 1.0))
    assert space.first == ()
    assert parse_space(to_yaml(space)) == space


def test_an_override_fills_an_empty_section() -> None:
    assert parse_space("space: {}\nsearch:\n", ["search.seed=3"]).search.seed == 3


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("trials", "must be key=value with a dotted key, got 'trials'"),
        ("=3", "must be key=value with a dotted key, got '=3'"),
        ("search..seed=3", "must be key=value with a dotted key, got 'search..seed=3'"),
        ("search.trails=3", "search.trails: unknown name 'trails'; did you mean trials?"),
        ("serach.trials=3", "serach: unknown name 'serach'; did you mean search?"),
        ("search.trials=", "search.trials: must be a whole number of at least 1, got None"),
        ("search.trials.x=3", "search.trials.x: search.trials is no mapping, it is 16"),
        ("search.trials=[1", "search.trials: value:1: not YAML: while parsing a flow sequence"),
        ("space.dropout={float: [1, 0]}", "space.dropout.float: each bound must be a number from"),
        ("space.dropout={log: yes, log: no}", "space.dropout.log: the key is given twice"),
        ("space.dropout.float=[0.5, 0.1]", "space.dropout.float: low must be at most high, got"),
        ("space=3", "space: must be a mapping of hyperparameters ({} searches nothing), got 3"),
    ],
)
def test_errors_of_overrides(override: str, problem: str) -> None:
    found = problems(FULL, [override])
    assert found[0].startswith(f"--set: {problem}")


def test_an_override_leaves_the_lines_of_other_values() -> None:
    found = problems("space:\n  dropout: {float: [2, 1]}\n", ["search.seed=1"])
    assert found[0].startswith("space.yaml:2: space.dropout.float: ")


def test_importing_space_is_quick() -> None:
    program = (
        "import sys, crnn_search.spaces.space as s, crnn_search.spaces.file as f; "
        "s.sample(f.parse_space('space: {dropout: 0}'), 0, 1); "
        "sys.exit(bool({'optuna', 'torch', 'ray'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
