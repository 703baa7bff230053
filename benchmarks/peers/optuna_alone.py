"""Optuna alone: a plain objective, two processes, one study in a journal file."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from benchmarks.peers import recipe
from benchmarks.work import Trained, Work, side_by_side


def run(work: Work, num_workers: int = 0) -> list[Trained]:
    """Both trials at once."""
    with tempfile.TemporaryDirectory() as folder:
        journal = str(Path(folder) / "study.log")
        optuna.create_study(storage=_storage(journal), study_name="bench")
        return side_by_side(train, work, journal, num_workers)


def train(work: Work, seed: int, journal: str, num_workers: int) -> Trained:
    """One process: join the study and run one trial of it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trained = Trained([], [])

    def objective(trial: optuna.Trial) -> float:
        for epoch, (rmse, _, _) in enumerate(recipe.train(work, seed, num_workers), start=1):
            trial.report(rmse, epoch)
            trained.ends.append(time.time())
            trained.validation_rmse.append(rmse)
        return trained.validation_rmse[-1]

    optuna.load_study(storage=_storage(journal), study_name="bench").optimize(objective, n_trials=1)
    return trained


def _storage(journal: str) -> JournalStorage:
    return JournalStorage(JournalFileBackend(journal))
