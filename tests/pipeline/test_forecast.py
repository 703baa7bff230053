"""Forecasts of runs, measured in this process, and one beside the run that it is of."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from crnn_search import api
from crnn_search.cluster.resources import Allocation
from crnn_search.data.digits import Digits
from crnn_search.errors import DataError, InputError
from crnn_search.hyperparameters import Arithmetic
from crnn_search.pipeline import forecast as forecasts
from crnn_search.pipeline.forecast import Measurement, assemble, configurations
from crnn_search.results.forecast import Range
from crnn_search.spaces.file import parse_space
from crnn_search.storage import jsonl
from crnn_search.training.probe import Cost
from crnn_search.tuning import replay
from crnn_search.tuning.replay import Costs
from crnn_search.tuning.scheduler import Asha
from crnn_search.tuning.searcher import StudySearcher
from tests.data.folders import clips
from tests.pipeline.small_pipeline import forecasts_here
from tests.small_run import SPACE, FinishedRun
from tests.test_examples import run_program
from tests.tuning.examples import result, tune_trial

TINY = """
search: {trials: 6, max_epochs: 4, grace_epochs: 1, reduction_factor: 2, epoch_sequences: 64}
retrain: {epochs: 3, epoch_sequences: 64, seeds: 2, finalists: 2}
first: [{gru_sizes: [7]}]
space:
  conv_channels: {list_of: {int: [2, 4]}, length: 1}
  pooling: 4
  gru_sizes: {list_of: {int: [4, 8]}, length: 1}
  learning_rate: {float: [1.0e-3, 1.0e-2], log: true}
  batch_size: 32
"""


def measured(*seconds: float, allocation: Allocation = Allocation(2.0, 0.0, 2)) -> Measurement:  # noqa: B008
    """Trials with so many seconds an epoch, and a baseline with one."""
    costs = tuple(Cost(s, s, 100.0 * s) for s in seconds)
    return Measurement(
        Costs((), costs, Cost(1.0, 1.0, 9e9)), allocation, Arithmetic(), "a processor"
    )


def test_without_early_stopping_and_with_equal_trials_nothing_is_left_to_chance() -> None:
    space = parse_space(TINY, ["search.grace_epochs=4"])
    found = assemble(space, measured(1.0))
    search, finalists, retraining = found.stages
    assert [stage.name for stage in found.stages] == ["search", "finalists", "retraining"]
    assert [stage.trials for stage in (*found.stages, found.whole)] == [6, 4, 4, 14]
    assert search.epochs == Range(24.0, 24.0, 24.0)
    assert finalists.epochs.middle == 16
    assert retraining.epochs.middle == 12
    assert found.whole.epochs.middle == 52
    assert search.core_hours.middle == pytest.approx(2 * 24 / 3600), "two cores each"
    assert search.gpu_hours.high == 0
    assert search.time_s.middle == 12
    assert found.whole.time_s.middle == 12 + 8 + 6
    assert search.share == pytest.approx(24 / 52)
    assert found.memory_mb == Range(100.0, 100.0, 100.0), "the baseline's does not count"
    assert (found.configurations, found.runs, found.at_most) == (2, 200, ())


def test_gpu_hours_and_what_may_end_a_search() -> None:
    space = parse_space(TINY, ["search.target=0.1", "search.patience=3"])
    found = assemble(space, measured(1.0, 5.0, allocation=Allocation(1.0, 0.25, 4)))
    for stage in (*found.stages, found.whole):
        assert stage.gpu_hours.low == pytest.approx(stage.core_hours.low / 4)
    assert found.at_most == ("search.target", "search.patience")
    assert sum(stage.share for stage in found.stages) == pytest.approx(1)
    assert found.memory_mb == Range(100.0, 300.0, 500.0)


def test_ranges_have_the_configurations_that_are_drawn() -> None:
    space = parse_space(TINY, ["search.grace_epochs=4"])
    hours = assemble(space, measured(1.0, 2.0, 9.0)).stages[0].core_hours
    assert 2 * 24 / 3600 <= hours.low < hours.middle < hours.high <= 2 * 24 * 9 / 3600
    assert hours.middle == pytest.approx(2 * 24 * 4 / 3600, rel=0.35), "the mean has 4 s"


@pytest.mark.parametrize("trials", [12, 40])
def test_range_has_the_epochs_of_a_real_search(trials: int) -> None:
    """The real searcher and scheduler, one trial at a time; an objective in place of training."""
    space = parse_space(TINY, [f"search.trials={trials}", "search.max_epochs=9"])
    expected = assemble(space, measured(1.0)).stages[0].epochs
    searcher, asha, epochs = StudySearcher(space), Asha(9, 1, 2), 0
    for number in range(trials):
        suggested: Any = searcher.suggest(str(number))
        own = tune_trial(trial_id=str(number))
        own.config = suggested
        config = suggested["trial"]["config"]
        rmse = abs(math.log(config["learning_rate"] / 0.004)) + 1 / config["gru_sizes"][0]
        for epoch in range(1, 10):
            epochs += 1
            item = result(epoch, rmse + 1 / epoch)
            if asha.on_trial_result(None, own, item) == "STOP":
                break
            searcher.on_trial_result(str(number), item)
        asha.on_trial_complete(None, own, item)
        searcher.on_trial_complete(str(number), item)
    assert expected.low <= epochs <= expected.high


def test_few_runs_of_a_large_search_are_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "MAX_TRIALS", 200)
    space = parse_space(TINY, ["search.trials=1000000"])
    found = assemble(space, measured(1.0))
    assert found.runs == 20
    assert 1e6 < found.stages[0].epochs.low < found.stages[0].epochs.high < 4e6


def test_first_is_completed_by_a_sample() -> None:
    first, sampled = configurations(parse_space(TINY))
    (config,) = first
    assert config.model.gru_sizes == (7,)
    assert config.model.pooling == (4,), "the space's, not the default"
    assert len(sampled) == 8
    assert len(set(sampled)) == 8


def test_a_space_of_infeasible_networks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasts, "feasible", lambda *_: [])
    with pytest.raises(InputError, match="none of 200 sampled configurations is feasible; make"):
        configurations(parse_space(TINY))


def test_networks_that_predict_too_slowly_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasts, "DRAWS", 3)
    space = parse_space(TINY, ["search.max_ms_per_sequence=1e-6"])
    with pytest.raises(InputError, match=r"none of 3 .* or search\.max_ms_per_sequence larger"):
        configurations(space)


def test_forecast_in_this_process(digits: Digits) -> None:
    done: list[tuple[str, int, int]] = []
    threads = torch.get_num_threads()
    with forecasts_here(digits):
        found = api.forecast(TINY, on_progress=lambda *step: done.append(step))
    assert torch.get_num_threads() == threads
    assert done == [("measuring", number, 10) for number in range(1, 11)]
    assert found.configurations == 10, "the first of first, eight random ones, the network of 2016"
    assert found.concurrent == 1
    epochs = found.stages[0].epochs
    assert 6 <= epochs.low <= epochs.middle <= epochs.high <= 24
    assert 1e-5 < found.whole.core_hours.low < found.whole.core_hours.high < 0.5
    assert found.whole.core_hours.middle * 3600 == pytest.approx(found.whole.time_s.middle)
    assert found.memory_mb.low > 50


def test_own_data_have_fewer_sequences_than_an_epoch_may_have(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, digits: Digits
) -> None:
    monkeypatch.setenv("CRNN_SEARCH_CACHE", str(tmp_path / "cache"))
    clips(tmp_path / "clips")
    path = tmp_path / "space.yaml"
    path.write_text("task: {data: clips}\nspace: {conv_channels: [4], gru_sizes: [4]}")
    with forecasts_here(digits):
        found = api.forecast(path)
    assert found.stages[0].time_s.high < 600, "60,000 sequences an epoch would take hours"


def test_missing_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--data-dir must be a folder"):
        api.forecast(TINY, data_dir=tmp_path / "nowhere")


def test_hours_of_a_run_are_in_the_forecast_from_its_own_epochs(finished: FinishedRun) -> None:
    """Its own: so that it does not matter how busy the machine was."""
    trials = jsonl.read(finished.folder / "trials.jsonl")
    epochs = [len(line["train_loss"]) for line in trials]
    costs = [line["core_seconds"] / n for line, n in zip(trials, epochs, strict=True)]
    found = assemble(parse_space(SPACE), measured(*costs, allocation=Allocation(1.0, 0.0, 1)))
    hours = found.stages[0].core_hours
    assert hours.low <= sum(line["core_seconds"] for line in trials) / 3600 <= hours.high
    assert found.stages[0].epochs.low <= sum(epochs) <= found.stages[0].epochs.high


@pytest.mark.long(30)
@pytest.mark.slow
def test_forecast_beside_the_run(finished: FinishedRun) -> None:
    """Epochs are in the range; times are not compared: the machine may be busy with one of both."""
    program = """
import dataclasses, json, crnn_search
found = crnn_search.forecast("space.yaml", data_dir="data")
print(json.dumps(dataclasses.asdict(found)))
"""
    found = json.loads(run_program(finished.root, program).splitlines()[-1])
    trials = jsonl.read(finished.folder / "trials.jsonl")
    search = found["stages"][0]
    epochs = sum(len(line["train_loss"]) for line in trials)
    assert search["epochs"]["low"] <= epochs <= search["epochs"]["high"]
    hours = search["core_hours"]
    assert 0 < hours["low"] <= hours["middle"] <= hours["high"]
    assert found["concurrent"] == 1
    assert parse_space(SPACE).search.trials == search["trials"] == len(trials)
    assert 100 < found["memory_mb"]["low"] <= found["memory_mb"]["high"] < 3000
    assert dataclasses.asdict(Arithmetic(**found["arithmetic"])) == found["arithmetic"]
