"""The figures of a search, of trials that ended in every way."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from crnn_search.hyperparameters import MNIST_SHAPE
from crnn_search.results import doubts, search_figures
from crnn_search.results.page import search_charts
from crnn_search.spaces.file import parse_space
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage.trial import TrialState
from tests.results.result_files import SMALL, record

SPACE = parse_space("""
search: {trials: 16, max_epochs: 9, grace_epochs: 1, reduction_factor: 3, epoch_sequences: 500}
retrain: {epochs: 9, epoch_sequences: 500}
space:
  conv_channels: {list_of: {int: [4, 16]}, length: [1, 3]}
  kernel_size: 5
  pooling: 4
  gru_sizes: {choice: [[8], [8, 16]]}
  learning_rate: {float: [1.0e-4, 0.1], log: true}
  dropout: {float: [0.0, 0.5]}
  batch_norm: {choice: [true, false]}
""")
TRIALS = [
    record(0, "COMPLETE", [9.0, 4.0, 2.0]),
    record(1, "PRUNED", [8.0], conv_channels=[4, 8]),
    record(2, "COMPLETE", [7.0, 3.0, 1.0], learning_rate=0.01),
    record(3, "FAIL", [6.0, None]),
    dataclasses.replace(record(4, "PRUNED", [5.0, 4.0]), reason="the budget is used up"),
    record(5, "RUNNING", [5.5]),
]


def test_rows_have_states_and_searched_values() -> None:
    rows = search_figures.rows(TRIALS, SPACE, MNIST_SHAPE, {"2": 0.5})
    assert [row["state"] for row in rows] == [
        "completed", "stopped", "completed", "failed", "cut", "running",
    ]  # fmt: skip
    assert rows[1]["values"] == {
        "conv_channels depth": 2, "conv_channels mean": 6.0, "gru_sizes": "8",
        "learning_rate": 0.003, "dropout": 0.0, "batch_norm": "true",
    }  # fmt: skip
    assert list(rows[1]["config"]) == list(SPACE.space)
    assert rows[2]["parameters"] == SMALL.model.parameter_count(MNIST_SHAPE)
    assert [row["ms_per_sequence"] for row in rows] == [None, None, 0.5, None, None, None]
    axes = search_figures.axes(SPACE)
    assert [axis["name"] for axis in axes] == list(rows[1]["values"])
    assert [axis["name"] for axis in axes if axis["log"]] == ["learning_rate"]


def test_incumbents_are_of_the_full_budget_in_order_of_their_end() -> None:
    found = search_figures.incumbents(TRIALS, [1, 0, 4, 2, 3, 99])
    assert [(item["trials"], item["number"]) for item in found] == [(2, 0), (4, 2)]
    assert [item["validation_rmse"] for item in found] == [2.0, 1.0]
    assert [item["core_seconds"] for item in found] == [40.0, 90.0]


def test_rungs() -> None:
    first, second = search_figures.rungs(TRIALS, SPACE)
    assert (first["epochs"], first["reached"], first["continued"]) == (1, 6, 4)
    assert (first["best"], first["median"]) == (5.0, 6.5)
    assert (second["epochs"], second["reached"], second["continued"]) == (3, 2, 0)


def test_what_was_not_trained() -> None:
    stopped = search_figures.untrained(TRIALS, cut=False)
    assert stopped == {"trials": 1, "epochs": 2, "core_seconds": 20.0, "gpu_seconds": 2.0}
    cut = search_figures.untrained(TRIALS, cut=True)
    assert cut == {"trials": 1, "epochs": 1, "core_seconds": 10.0, "gpu_seconds": 1.0}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"conv_channels": [6, 6, 6]}, ["conv_channels: its depth, 3, is the most of 1 to 3"]),
        ({"conv_channels": [16, 8]}, ["conv_channels: 16 is at the high end of 4 to 16"]),
        ({"learning_rate": 0.0995}, ["learning_rate: 0.0995 is at the high end of 0.0001 to 0.1"]),
        ({"learning_rate": 0.09}, []),
        ({"dropout": 0.0}, []),  # it cannot be lower
        ({"dropout": 0.499}, ["dropout: 0.499 is at the high end of 0 to 0.5"]),
    ],
)
def test_winners_on_the_border(changes: dict[str, Any], words: list[str]) -> None:
    config = SMALL.to_dict() | {"conv_channels": [6, 7], "dropout": 0.2} | changes
    assert search_figures.at_border(SPACE, config) == words
    warnings = doubts.on_border(SPACE, config)
    assert [warning["kind"] for warning in warnings] == ["border"] * bool(words)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (64, ["batch_size: 64 is the lowest of 64, 128, 256"]),
        (128, []),
        (256, ["batch_size: 256 is the highest of 64, 128, 256"]),
    ],
)
def test_winners_at_the_end_of_a_choice_of_numbers(value: int, words: list[str]) -> None:
    space = parse_space("space: {batch_size: {choice: [128, 64, 256]}, reuse: {choice: [2, 4]}}\n")
    config = SMALL.to_dict() | {"batch_size": value, "reuse": 4}
    assert search_figures.at_border(space, config) == words


def shorter(**retrain: int) -> SearchSpace:
    return dataclasses.replace(SPACE, retrain=SPACE.retrain.model_copy(update=retrain))


def test_a_retraining_shorter_than_a_trial() -> None:
    assert not doubts.short_retraining(SPACE)
    (warning,) = doubts.short_retraining(shorter(epochs=8))
    assert "8 epochs of 500 sequences, is below a trial's, 9 epochs of 500" in warning["text"]


@pytest.mark.parametrize(
    ("rmse", "difference", "interval", "words"),
    [
        (1.0, 0.5, [0.2, 0.8], []),
        (1.0, 0.5, [-0.1, 1.1], ["may not be better than the network of 2016"]),
        (1.0, 0.5, None, []),
        (1.5, 0.0, [-0.1, 0.1], ["does not beat the network of 2016 (1.50)"]),
        (5.0, -3.5, [-4, -3], ["does not beat guessing the mean (4.00) and the network of 2016"]),
    ],
)
def test_winners_that_beat_no_baseline(
    rmse: float, difference: float, interval: list[float] | None, words: list[str]
) -> None:
    baselines = {"mean_guess": {"rmse": 4.0}, "mnist_crnn_2016": {"rmse": 1.5}}
    improvement = {"difference": difference, "interval": interval}
    found = doubts.beaten({"rmse": rmse}, baselines, "mnist_crnn_2016", improvement)
    assert len(found) == len(words)
    for warning, expected in zip(found, words, strict=True):
        assert expected in warning["text"]


def test_the_pareto_front_has_what_nothing_beats() -> None:
    rows = search_figures.rows(TRIALS[:3], SPACE, MNIST_SHAPE, {})
    sizes = {0: 100, 1: 50, 2: 200}
    rows = [{**row, "parameters": sizes[row["number"]]} for row in rows]
    assert [row["number"] for row in search_charts.front(rows, "parameters")] == [1, 0, 2]
    rows[0]["validation_rmse"] = 8.0
    assert [row["number"] for row in search_charts.front(rows, "parameters")] == [1, 2]


def test_charts_without_a_value_can_be_drawn() -> None:
    failed = [record(0, "FAIL", []), record(1, "FAIL", [None])]
    rows = search_figures.rows(failed, SPACE, MNIST_SHAPE, {})
    assert search_charts.learning_curves(rows, None, "RMSE")["data"][0]["name"] == "failed"
    assert search_charts.rungs(rows, search_figures.rungs(failed, SPACE), "RMSE")
    assert TrialState.FAIL in {trial.state for trial in failed}
