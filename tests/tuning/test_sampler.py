from __future__ import annotations

import time
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from crnn_search.tuning import sampler
from crnn_search.tuning.sampler import bounded, make_sampler


def objective(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 0, 1) + trial.suggest_int("n", 1, 9)


def random_study(trials: int) -> optuna.Study:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(objective, trials)
    return study


def ask(study: optuna.Study) -> dict[str, Any]:
    study.sampler = make_sampler(3)
    trial = study.ask()
    objective(trial)
    return dict(trial.params)


def test_study_is_asked_itself_below_the_bound() -> None:
    study = random_study(60)
    assert bounded(study) is study


def test_best_and_newest_and_running_trials_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "MAX_TRIALS", 20)
    monkeypatch.setattr(sampler, "BEST", 5)
    study = random_study(60)
    objective(study.ask())
    best = sorted(study.trials[:60], key=lambda trial: trial.value or 0.0)[:5]
    used = sorted({*(t.number for t in best), *range(45, 60)})
    seen = bounded(study).trials
    assert [t.params for t in seen] == [study.trials[n].params for n in (*used, 60)]
    assert seen[-1].state == TrialState.RUNNING


def test_suggestion_is_that_of_a_study_of_the_seen_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    study = random_study(60)
    alone = optuna.create_study()
    alone.add_trials(study.trials[40:])
    monkeypatch.setattr(sampler, "MAX_TRIALS", 20)
    monkeypatch.setattr(sampler, "BEST", 0)
    assert ask(bounded(study)) == ask(alone)


def test_level_of_the_log_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "MAX_TRIALS", 2)
    before = optuna.logging.get_verbosity()
    bounded(random_study(4))
    assert optuna.logging.get_verbosity() == before


@pytest.mark.slow
def test_cost_of_a_suggestion_does_not_grow() -> None:
    def seconds(study: optuna.Study) -> float:
        """Of this thread's processor time, the least of some: others load the machine, too."""
        found = []
        for _ in range(7):
            started = time.thread_time()
            ask(bounded(study))
            found.append(time.thread_time() - started)
        return min(found)

    assert seconds(random_study(2_000)) < 3 * seconds(random_study(320))
