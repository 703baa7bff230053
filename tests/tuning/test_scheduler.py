"""`Asha` decides as Ray's `ASHAScheduler`, and is right where that is wrong."""

from __future__ import annotations

import copy
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from crnn_search.storage.trial import METRIC, TrialState
from crnn_search.tuning.scheduler import Asha
from tests.tuning.examples import record, result, trial, tune_trial


def asha(max_epochs: int = 4) -> Asha:
    return Asha(max_epochs, grace_epochs=1, reduction_factor=2)


def stock_asha() -> ASHAScheduler:
    return ASHAScheduler("epoch", METRIC, "min", max_t=4, reduction_factor=2)


def stock_rungs(scheduler: ASHAScheduler) -> dict[float, dict[str, float]]:
    return {
        m: {n: -v for n, v in recorded.items()} for m, recorded in scheduler._brackets[0]._rungs
    }


def report(scheduler: FIFOScheduler, number: int, item: dict[str, Any]) -> str:
    """Report a result of a trial, which is new to the scheduler if it has not seen it."""
    own = tune_trial(trial(number), trial_id=trial(number).name)
    if isinstance(scheduler, ASHAScheduler) and own.trial_id not in scheduler._trial_info:
        scheduler.on_trial_add(None, own)
    return str(scheduler.on_trial_result(None, own, item))


@st.composite
def searches(draw: st.DrawFn) -> tuple[dict[str, Any], list[tuple[int, int, float]]]:
    """ASHA's settings, and results as they come: trial, epochs since its last one, RMSE."""
    grace = draw(st.integers(1, 4))
    settings = {
        "max_t": grace * draw(st.integers(1, 30)),
        "grace_period": grace,
        "reduction_factor": draw(st.sampled_from([2, 3, 4, 1.5, 2.7])),
    }
    rmse = st.one_of(st.floats(0, 1e3), st.sampled_from([1.0, 2.0, 0.1, 0.3]))
    steps = st.tuples(st.integers(0, 9), st.sampled_from([1, 1, 1, 2, 5]), rmse)
    return settings, draw(st.lists(steps, max_size=120))


@given(searches())
def test_decisions_are_those_of_rays_scheduler(
    search: tuple[dict[str, Any], list[tuple[int, int, float]]],
) -> None:
    """Whatever the order of the results, also if a trial does not report every epoch."""
    settings, steps = search
    stock = ASHAScheduler("epoch", METRIC, "min", **settings)
    ours = Asha(*settings.values())
    epochs: dict[int, int] = {}
    running: dict[int, Any] = {}
    for number, more, rmse in steps:
        if number not in running:
            if number in epochs:
                continue  # it was stopped
            running[number] = tune_trial(trial(number), trial_id=trial(number).name)
            for scheduler in (stock, ours):
                scheduler.on_trial_add(None, running[number])
        epochs[number] = min(epochs.get(number, 0) + more, settings["max_t"])
        item = result(epochs[number], rmse)
        decision = stock.on_trial_result(None, running[number], item)
        assert ours.on_trial_result(None, running[number], item) == decision
        if decision == TrialScheduler.STOP:
            ended = running.pop(number)
            for scheduler in (stock, ours):
                scheduler.on_trial_complete(None, ended, item)
        assert ours.rungs == stock_rungs(stock)


def test_failed_trial_leaves_no_trace_in_a_rung() -> None:
    scheduler = asha()
    assert report(scheduler, 0, result(1, 5.0)) == TrialScheduler.CONTINUE
    before = copy.deepcopy(scheduler.rungs)
    failed = (result(1, math.nan), result(1, 99.0, failure="diverged"), result(0, failure="bug"))
    for number, item in enumerate(failed, start=1):
        assert report(scheduler, number, item) == TrialScheduler.STOP
        scheduler.on_trial_complete(None, tune_trial(trial(number)), item)
    assert scheduler.rungs == before


def test_stock_asha_continues_a_nan_trial() -> None:
    scheduler = stock_asha()
    report(scheduler, 0, result(1, 5.0))
    assert report(scheduler, 1, result(1, math.nan)) == TrialScheduler.CONTINUE  # the trap
    assert len(stock_rungs(scheduler)[1]) == 2


def test_asha_stops_the_worse_and_keeps_the_better() -> None:
    scheduler = asha()
    for number, value in ((0, 5.0), (1, 4.0)):
        assert report(scheduler, number, result(1, value)) == TrialScheduler.CONTINUE
    assert report(scheduler, 2, result(1, 6.0)) == TrialScheduler.STOP
    assert report(scheduler, 1, result(4, 1.0)) == TrialScheduler.STOP  # its budget is used up


def test_stock_asha_created_again_has_empty_rungs() -> None:
    """`Tuner.restore` takes the scheduler as it is given, new."""
    ours = asha()
    for number in range(2):
        ours.replay(record(number, 5.0 - number, state=TrialState.PRUNED))
    assert report(ours, 2, result(1, 9.0)) == TrialScheduler.STOP
    assert report(stock_asha(), 2, result(1, 9.0)) == TrialScheduler.CONTINUE  # the trap


def test_replay_says_whether_a_trial_was_to_stop() -> None:
    scheduler = asha()
    assert not scheduler.replay(record(0, 4.0, 3.0, state=TrialState.PRUNED))
    assert scheduler.replay(record(1, 5.0))
    assert not scheduler.replay(record(2, 1.0))
    assert scheduler.replay(record(3, 1.0, None, failure="diverged: validation RMSE nan"))


def test_rungs_know_a_retried_trial() -> None:
    scheduler = asha()
    for number, value in ((0, 4.0), (1, 5.0)):
        report(scheduler, number, result(1, value))
    before = copy.deepcopy(scheduler.rungs)
    scheduler.on_trial_error(None, tune_trial(trial(0)))
    again = tune_trial(trial(0), trial_id="another id of Tune's")
    scheduler.on_trial_add(None, again)
    assert scheduler.on_trial_result(None, again, result(1, 4.0)) == TrialScheduler.CONTINUE
    assert scheduler.rungs == before
    assert scheduler.on_trial_result(None, again, result(2, 3.0)) == TrialScheduler.CONTINUE
    assert scheduler.rungs[2] == {"trial-0000": 3.0}


def test_used_up_budget_stops_every_trial_after_its_epoch() -> None:
    scheduler = Asha(4, 1, 2, may_continue=lambda: False)
    assert report(scheduler, 0, result(1, 0.1)) == TrialScheduler.STOP
    assert scheduler.rungs[1] == {"trial-0000": 0.1}
