"""Each trap of Ray's `ASHAScheduler`: `FiniteAsha` is right where the stock one is wrong."""

from __future__ import annotations

import math
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from crnn_search.storage.trial import METRIC, TrialState
from crnn_search.tuning.scheduler import FiniteAsha
from tests.tuning.examples import record, result, trial, tune_trial


def asha(max_epochs: int = 4) -> FiniteAsha:
    return FiniteAsha(max_epochs, grace_epochs=1, reduction_factor=2)


def stock_asha() -> ASHAScheduler:
    return ASHAScheduler("epoch", METRIC, "min", max_t=4, reduction_factor=2)


def rungs(scheduler: ASHAScheduler) -> dict[float, dict[str, float]]:
    return {milestone: dict(values) for milestone, values in scheduler._brackets[0]._rungs}


def report(scheduler: ASHAScheduler, number: int, item: dict[str, Any]) -> str:
    """Report a result of a trial, which is new to the scheduler if it has not seen it."""
    own = tune_trial(trial(number), trial_id=trial(number).name)
    if own.trial_id not in scheduler._trial_info:
        scheduler.on_trial_add(None, own)
    return str(scheduler.on_trial_result(None, own, item))


def test_failed_trial_leaves_no_trace_in_a_rung() -> None:
    scheduler = asha()
    assert report(scheduler, 0, result(1, 5.0)) == TrialScheduler.CONTINUE
    before = rungs(scheduler)
    failed = (result(1, math.nan), result(1, 99.0, failure="diverged"), result(0, failure="bug"))
    for number, item in enumerate(failed, start=1):
        assert report(scheduler, number, item) == TrialScheduler.STOP
        scheduler.on_trial_complete(None, tune_trial(trial(number)), item)
    assert rungs(scheduler) == before


def test_stock_asha_continues_a_nan_trial() -> None:
    scheduler = stock_asha()
    report(scheduler, 0, result(1, 5.0))
    assert report(scheduler, 1, result(1, math.nan)) == TrialScheduler.CONTINUE  # the trap
    assert len(rungs(scheduler)[1]) == 2


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
    before = rungs(scheduler)
    scheduler.on_trial_error(None, tune_trial(trial(0)))
    again = tune_trial(trial(0), trial_id="another id of Tune's")
    scheduler.on_trial_add(None, again)
    assert scheduler.on_trial_result(None, again, result(1, 4.0)) == TrialScheduler.CONTINUE
    assert rungs(scheduler) == before
    assert scheduler.on_trial_result(None, again, result(2, 3.0)) == TrialScheduler.CONTINUE
    assert rungs(scheduler)[2] == {"trial-0000": -3.0}


def test_used_up_budget_stops_every_trial_after_its_epoch() -> None:
    scheduler = FiniteAsha(4, 1, 2, may_continue=lambda: False)
    assert report(scheduler, 0, result(1, 0.1)) == TrialScheduler.STOP
    assert rungs(scheduler)[1] == {"trial-0000": -0.1}
