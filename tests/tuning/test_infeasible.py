"""Networks that cannot be trained, or are larger or slower than the space allows."""

from __future__ import annotations

from unittest import mock

import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from crnn_search.errors import RunError
from crnn_search.hyperparameters import MNIST_SHAPE, ImageShape, ModelSpec, TrialConfig
from crnn_search.spaces.file import parse_space
from crnn_search.spaces.space import SearchSpace
from crnn_search.tuning.searcher import StudySearcher
from tests.tuning.examples import result
from tests.tuning.test_searcher import DEEP, TEXT, Records, suggested


def test_infeasible_networks_are_recorded_and_never_run() -> None:
    callback = Records()
    searcher = StudySearcher(parse_space(DEEP), callback=callback)
    for number in range(12):
        config = suggested(searcher, str(number)).config
        searcher.on_trial_complete(str(number), result(2, len(config.model.conv_channels)))
    states = [trial.state for trial in searcher.study.trials]
    assert states.count(TrialState.COMPLETE) == 12
    assert states.count(TrialState.FAIL) == len(callback.infeasible) > 0
    assert all("leaves no pixels" in trial.reason for trial in callback.infeasible)
    numbers = [record.trial.number for record in callback.records.values()]
    numbers += [trial.number for trial in callback.infeasible]
    assert sorted(numbers) == list(range(len(states)))
    assert searcher.suggest("end") == Searcher.FINISHED


def test_too_large_networks_are_drawn_again() -> None:
    space = parse_space(TEXT.replace("seed: 7", "seed: 7, max_parameters: 300000"))
    callback = Records()
    searcher = StudySearcher(space, callback=callback)
    for number in range(20):
        config = suggested(searcher, str(number)).config
        assert config.model.parameter_count(space.shape) <= 300_000
        searcher.on_trial_complete(str(number), result(4, 1.0))
    assert callback.infeasible
    for trial in callback.infeasible:
        count = TrialConfig.from_dict(trial.config).model.parameter_count(space.shape)
        assert count > 300_000
        assert trial.reason == (
            f"the network has {count:,} parameters; search.max_parameters is 300,000"
        )


def slow_if_wide(spec: ModelSpec, shape: ImageShape, longest: int, limit_ms: float) -> float:
    """A millisecond for each 50 units of the GRUs."""
    assert (shape, longest) == (MNIST_SHAPE, 8)
    assert limit_ms == 4
    return sum(spec.gru_sizes) / 50


def test_slow_networks_are_drawn_again() -> None:
    """Also one of those to try first."""
    text = TEXT.replace("seed: 7", "seed: 7, max_ms_per_sequence: 4")
    space, callback = parse_space(text.replace("[32, 48]", "[207]")), Records()
    searcher = StudySearcher(space, callback=callback)
    searcher.prediction_ms = slow_if_wide
    for number in range(20):
        config = suggested(searcher, str(number)).config
        assert sum(config.model.gru_sizes) <= 200
        searcher.on_trial_complete(str(number), result(4, 1.0))
    assert len(callback.infeasible) > 1
    assert callback.infeasible[0].config["gru_sizes"] == [207]
    assert callback.infeasible[0].reason == (
        "the network takes 4.14 ms for a sequence; search.max_ms_per_sequence is 4"
    )
    for trial in callback.infeasible:
        assert sum(trial.config["gru_sizes"]) > 200
        assert searcher.study.trials[trial.number].state == TrialState.FAIL


@pytest.mark.parametrize(("measured", "feasible"), [(4.004, True), (4.01, False)])
def test_a_time_counts_as_it_is_shown(measured: float, feasible: bool) -> None:
    space = parse_space(TEXT.replace("seed: 7", "seed: 7, max_ms_per_sequence: 4"))
    callback, times = Records(), iter([measured, 0.1])
    searcher = StudySearcher(space, callback=callback)
    searcher.prediction_ms = lambda *_: next(times)
    suggested(searcher, "a")
    assert [trial.number for trial in callback.infeasible] == ([] if feasible else [0])


def test_nothing_is_measured_without_a_limit() -> None:
    space = parse_space(TEXT)
    searcher = StudySearcher(space)
    searcher.prediction_ms = lambda *_: pytest.fail("measured")
    assert suggested(searcher, "a").number == 0


def test_a_network_whose_time_cannot_be_measured_is_infeasible() -> None:
    space = parse_space(TEXT.replace("seed: 7", "seed: 7, max_ms_per_sequence: 4"))
    callback = Records()
    searcher = StudySearcher(space, callback=callback)
    searcher.prediction_ms = mock.Mock(
        side_effect=[RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1.0]
    )
    assert suggested(searcher, "a").number == 1
    assert [trial.reason for trial in callback.infeasible] == [
        "the time that the network takes cannot be measured: DefaultCPUAllocator: can't allocate "
        "memory"
    ]


def test_space_of_infeasible_networks_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crnn_search.tuning.searcher.MAX_INFEASIBLE_IN_A_ROW", 3)
    space = parse_space(DEEP)
    infeasible = {"conv_channels": [2] * 6, "kernel_size": 3, "padding": "valid"}
    monkeypatch.setattr(SearchSpace, "suggest", lambda self, trial: infeasible)
    message = "3 samples in a row were infeasible, the last because convolution 4 leaves"
    callback = Records()
    with pytest.raises(RunError, match=message):
        StudySearcher(space, callback=callback).suggest("a")
    with pytest.raises(RunError, match=message):
        StudySearcher(space, past=callback.infeasible).suggest("a")
