"""Samples of a space: names and distributions in Optuna, bounds, membership."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import optuna
import pytest
from optuna.trial import FixedTrial

from crnn_search.errors import ConfigError
from crnn_search.hyperparameters import ModelSpec
from crnn_search.spaces.file import parse_space
from crnn_search.spaces.space import sample
from tests.spaces.examples import FULL, space_of


def test_optuna_names_have_one_item_for_each_place_of_a_list() -> None:
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


def test_fixed_length_is_not_suggested() -> None:
    trial = FixedTrial({"gru_sizes.0": 9, "gru_sizes.1": 8})
    space = space_of("gru_sizes: {list_of: {int: [1, 9]}, length: 2}")
    assert space.suggest(trial) == {"gru_sizes": [9, 8]}
    assert list(trial.params) == ["gru_sizes.0", "gru_sizes.1"]


def test_enqueued_configuration_is_completed_by_sampling() -> None:
    space = parse_space(FULL)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(space.to_params(space.first[0]))
    config = space.suggest(study.ask())
    assert config["conv_channels"] == [16, 32]
    assert config["learning_rate"] == 0.003
    assert set(config) == set(space.space)


def test_samples_can_be_added_to_a_study() -> None:
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


def test_partial_configuration_has_only_its_own_parameters() -> None:
    space = parse_space(FULL)
    partial = {"kernel_size": 5, "gru_sizes": (64,), "optimizer": "adamw", "weight_decay": 0}
    params = {"kernel_size": "[5]", "gru_sizes.length": 1, "gru_sizes.0": 64}
    assert space.to_params(partial) == params
    assert space.distributions(partial).keys() == params.keys()


def test_changing_a_sample_does_not_change_the_space() -> None:
    space = space_of("kernel_size: {choice: [[4, 3]]}", "pooling: [2, 1]")
    config = sample(space, 0, 1)[0]
    config["kernel_size"].append(9)
    config["pooling"].clear()
    assert sample(space, 0, 1) == [{"kernel_size": [4, 3], "pooling": [2, 1]}]


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
def test_samples_reach_both_bounds_as_in_optuna(line: str, low: float, high: float) -> None:
    space = space_of(line)
    name = line.partition(":")[0]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for drawn in (sample(space, 0, 60), [space.suggest(study.ask()) for _ in range(60)]):
        assert min(config[name] for config in drawn) == low
        assert max(config[name] for config in drawn) == high


@pytest.mark.parametrize("log", ["true", "false"])
def test_float_bounds_are_inclusive(log: str) -> None:
    space = space_of(f"learning_rate: {{float: [1e-4, 1e-2], log: {log}}}")
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


def test_equal_seeds_give_equal_samples() -> None:
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
def test_problems_of_a_configuration(config: dict[str, Any], problem: str) -> None:
    space = parse_space(FULL)
    assert space.problems_of(config) == [problem]
    with pytest.raises(ConfigError, match=re.escape(problem)):
        space.to_params(config)
    with pytest.raises(ConfigError, match=re.escape(problem)):
        space.distributions(config)


def test_all_problems_of_a_configuration_are_reported_at_once() -> None:
    space = parse_space(FULL)
    found = space.problems_of({"dropuot": 0.1, "dropout": "much", "batch_size": 3})
    assert [problem.partition(":")[0] for problem in found] == ["dropuot", "dropout", "batch_size"]
    assert "did you mean dropout?" in found[0]


def test_values_between_steps_are_not_in_the_space() -> None:
    space = space_of(
        "dropout: {float: [0.0, 0.3], step: 0.1}", "batch_size: {int: [2, 8], step: 2}"
    )
    assert space.problems_of({"dropout": 0.1 + 0.2, "batch_size": 8})  # above 0.3 by rounding
    assert not space.problems_of({"dropout": 0.3, "batch_size": 8})
    assert space.problems_of({"dropout": 0.15, "batch_size": 3}) == [
        "dropout: must be a number from 0.0 to 0.3 in steps of 0.1, got 0.15",
        "batch_size: must be a whole number from 2 to 8 in steps of 2, got 3",
    ]


def test_share_of_networks_that_are_too_large() -> None:
    space = space_of("gru_sizes: {list_of: {int: [1, 199]}, length: 1}")
    middle = ModelSpec(gru_sizes=(100,)).parameter_count(space.shape)
    search = space.search.model_copy(update={"max_parameters": middle})
    assert 0.4 < dataclasses.replace(space, search=search).infeasible_share() < 0.6


def test_infeasible_share() -> None:
    depth = "conv_channels: {list_of: 8, length: [1, 4]}"
    assert space_of(depth).infeasible_share() == 0.0
    assert 0.3 < space_of(depth, "pooling: 4").infeasible_share() < 0.7  # 28, 7, 1, none
    assert 0.2 < space_of("reuse: {choice: [1, 3]}").infeasible_share() < 0.8  # of 128
