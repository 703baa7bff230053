"""A searcher and a scheduler that are created again continue as the first ones would have."""

from __future__ import annotations

import math
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState
from ray.tune.schedulers import TrialScheduler

from crnn_search.spaces.file import parse_space
from crnn_search.storage.trial import InfeasibleTrial, Trial, TrialRecord
from crnn_search.tuning import sampler
from crnn_search.tuning.epoch_result import ending_state
from crnn_search.tuning.scheduler import Asha
from crnn_search.tuning.searcher import StudySearcher
from tests.tuning.examples import result, tune_trial
from tests.tuning.test_infeasible import slow_if_wide
from tests.tuning.test_scheduler import asha
from tests.tuning.test_searcher import DEEP, TEXT, Records


def play(
    searcher: StudySearcher, scheduler: Asha, callback: Records, steps: int
) -> list[tuple[str, int]]:
    """Run trials one at a time under ASHA on a simple objective, `steps` epochs in all."""
    seen: list[tuple[str, int]] = []
    while len(seen) < steps and isinstance(suggested := searcher.suggest("a"), dict):
        own = Trial.from_dict(suggested["trial"])
        record, in_tune = callback.records[own.name], tune_trial(own)
        scheduler.on_trial_add(None, in_tune)
        decision = TrialScheduler.CONTINUE
        while decision == TrialScheduler.CONTINUE and len(seen) < steps:
            epoch = record.epochs + 1
            value = abs(math.log(own.config.training.learning_rate / 0.003)) + 1 / epoch
            item = result(epoch, value)
            decision = scheduler.on_trial_result(None, in_tune, item)
            record.validation_rmse.append(value)
            record.train_loss.append(0.0)
            seen.append((own.name, epoch))
            if decision == TrialScheduler.CONTINUE:
                searcher.on_trial_result("a", item)
        if decision != TrialScheduler.CONTINUE:
            scheduler.on_trial_complete(None, in_tune, item)
            searcher.on_trial_complete("a", item)
            record.state = ending_state(epoch, value, own.epochs, failed=False)
    return seen


def frozen(trials: list[FrozenTrial]) -> list[tuple[Any, ...]]:
    return [
        (t.number, t.state, t.params, t.distributions, t.values, t.intermediate_values)
        for t in trials
    ]


@pytest.mark.parametrize("text", [TEXT, DEEP])
@pytest.mark.parametrize("steps", [1, 8])
@pytest.mark.parametrize("max_trials", [300, 3])
def test_resumed_search_equals_an_uninterrupted_one(
    text: str, steps: int, max_trials: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the sampler sees only some trials."""
    monkeypatch.setattr(sampler, "MAX_TRIALS", max_trials)
    monkeypatch.setattr(sampler, "BEST", 1)
    space, whole, cut = parse_space(text), Records(), Records()
    max_epochs = space.search.max_epochs
    searcher, scheduler = StudySearcher(space, callback=whole), asha(max_epochs)
    expected = play(searcher, scheduler, whole, 1000)
    first = play(StudySearcher(space, callback=cut), asha(max_epochs), cut, steps)
    past: list[TrialRecord | InfeasibleTrial] = [*cut.infeasible, *cut.records.values()]
    again, rebuilt = StudySearcher(space, callback=cut, past=past), asha(max_epochs)
    for record in cut.records.values():
        rebuilt.replay(record)
    assert first + play(again, rebuilt, cut, 1000) == expected
    assert [r.trial for r in cut.records.values()] == [r.trial for r in whole.records.values()]
    assert cut.infeasible == whole.infeasible
    assert frozen(again.study.trials) == frozen(searcher.study.trials)
    assert rebuilt.rungs == scheduler.rungs
    assert TrialState.RUNNING not in {trial.state for trial in again.study.trials}


def test_what_was_measured_is_not_measured_again() -> None:
    """Neither for infeasible samples nor for trials, ended or running."""
    space = parse_space(TEXT.replace("seed: 7", "seed: 7, max_ms_per_sequence: 4"))
    whole, cut = Records(), Records()
    searcher = StudySearcher(space, callback=whole)
    searcher.prediction_ms = slow_if_wide
    expected = play(searcher, asha(4), whole, 1000)
    assert whole.infeasible
    searcher = StudySearcher(space, callback=cut)
    searcher.prediction_ms = slow_if_wide
    first = play(searcher, asha(4), cut, len(expected) - 1)  # the last trial is running
    past: list[TrialRecord | InfeasibleTrial] = [*cut.infeasible, *cut.records.values()]
    again, rebuilt = StudySearcher(space, callback=cut, past=past), asha(4)
    again.prediction_ms = lambda *_: pytest.fail("measured again")
    for record in cut.records.values():
        rebuilt.replay(record)
    assert first + play(again, rebuilt, cut, 1000) == expected
    assert [r.trial for r in cut.records.values()] == [r.trial for r in whole.records.values()]
    assert cut.infeasible == whole.infeasible
