from __future__ import annotations

from typing import Any

import optuna
import pytest

from crnn_search.tuning.sampler import BoundedSampler

OPTIONS: dict[str, Any] = {"multivariate": True, "group": True, "constant_liar": True, "seed": 3}

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def random_study(trials: int) -> optuna.Study:
    def objective(trial: optuna.Trial) -> float:
        return trial.suggest_float("x", 0, 1) + trial.suggest_int("n", 1, 9)

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(objective, trials)
    return study


def ask(study: optuna.Study, sampler: optuna.samplers.BaseSampler) -> dict[str, Any]:
    study.sampler = sampler
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    trial.suggest_int("n", 1, 9)
    return dict(trial.params)


def test_sampler_is_tpe_below_its_bound() -> None:
    ours = ask(random_study(60), BoundedSampler(**OPTIONS))
    assert ours == ask(random_study(60), optuna.samplers.TPESampler(**OPTIONS))


def test_sampler_uses_the_best_and_the_newest_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedSampler, "MAX_TRIALS", 20)
    monkeypatch.setattr(BoundedSampler, "BEST", 5)
    study = random_study(60)
    running = study.ask()
    sampler = BoundedSampler(**OPTIONS)
    used = {trial.number for trial in sampler._used(study)}
    best = sorted(study.trials[:60], key=lambda trial: trial.value or 0.0)[:5]
    assert used == {*(t.number for t in best), *range(45, 60), running.number}
    assert 0 <= ask(study, sampler)["x"] <= 1
