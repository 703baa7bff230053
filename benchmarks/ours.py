"""This project: its engine, through Ray Tune as in a search, journal and checkpoints included."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.work import MAX_DIGITS, Trained, Work, best_arithmetic, validation
from crnn_search.cluster.resources import Allocation
from crnn_search.data.mnist_sums import MnistSums
from crnn_search.data.sequences import SequenceTable
from crnn_search.spaces.file import parse_space
from crnn_search.storage.journal import History, Journal
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import Trial, TrialRecord
from crnn_search.tuning import tuner
from crnn_search.tuning.callback import RunCallback
from crnn_search.tuning.context import Context

STAGE = "finalists"


@dataclass(frozen=True)
class ScaledTask(MnistSums):
    """Is validated on as many sequences as the benchmark's peers do. sequences: of training."""

    sequences: int

    def validation_table(self) -> SequenceTable:
        return validation(self.digits.labels, self.sequences)


class Clock:
    """A `Progress` that records when the results of each trial arrive at the driver."""

    def __init__(self) -> None:
        self.trials: dict[str, Trained] = {}
        self.failures: list[str] = []

    def stage(
        self, title: str, trials: int, epochs: int, known: Sequence[TrialRecord] = ()
    ) -> None:
        pass

    def started(self, name: str) -> None:
        pass

    def epoch(
        self, name: str, epoch: int, validation_rmse: float | None, train_loss: float
    ) -> None:
        assert validation_rmse is not None
        trained = self.trials.setdefault(name, Trained([], []))
        trained.ends.append(time.time())
        trained.validation_rmse.append(validation_rmse)

    def ended(self, name: str, state: str, reason: str | None) -> None:
        if state != "COMPLETE":
            self.failures.append(f"{name}: {reason}")

    def reading(self, what: str, done: int, total: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


def run(work: Work) -> list[Trained]:
    """Both trials at once; Ray has been started."""
    arithmetic = best_arithmetic(torch.device("cpu"))
    trials = [
        Trial(
            name=f"seed-{seed}",
            number=number,
            config=work.spec(),
            seed=seed,
            epochs=work.epochs,
            grace_epochs=work.epochs,
            epoch_sequences=work.sequences,
            data=f"mnist_sums/{MAX_DIGITS}",
            arithmetic=arithmetic,
        )
        for number, seed in enumerate(work.seeds)
    ]
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        run_folder = RunFolder(Path(folder))
        context = Context(
            run_folder,
            parse_space("space: {dropout: 0.0}"),  # a stage of fixed trials does not read it
            History(),
            Journal(run_folder),
            ScaledTask(work.digits(), MAX_DIGITS, work.sequences),
            Allocation(1, 0.0, len(trials)),
            arithmetic,
            clock,
        )
        callback = RunCallback(STAGE, context)
        for trial in trials:
            callback.on_trial_created(trial)
        tuner.run_trials(context, trials, callback)
    if clock.failures:
        raise RuntimeError("; ".join(clock.failures))
    return [clock.trials[trial.name] for trial in trials]
