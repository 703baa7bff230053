"""This project: its engine, through Ray Tune as in a search, journal and checkpoints included."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.work import MAX_DIGITS, Trained, Work, best_arithmetic, validation
from crnn_search.cluster.resources import Allocation
from crnn_search.data.mnist_sums import MnistSums
from crnn_search.data.sequences import SequenceTable
from crnn_search.pipeline.log_progress import LogProgress
from crnn_search.spaces.file import parse_space
from crnn_search.storage.journal import History, Journal
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import Trial, TrialState
from crnn_search.tuning import tuner
from crnn_search.tuning.callback import RunCallback
from crnn_search.tuning.context import Context
from crnn_search.tuning.progress import Records

STAGE = "finalists"


@dataclass(frozen=True)
class ScaledTask(MnistSums):
    """Is validated on as many sequences as the benchmark's peers do. sequences: of training."""

    sequences: int

    def validation_table(self) -> SequenceTable:
        return validation(self.digits.labels, self.sequences)


class Clock(LogProgress):
    """Records when the results of each trial arrive at the driver."""

    def __init__(self, records: Records) -> None:
        """records: those of the context."""
        self.trials: dict[str, Trained] = {}
        self.failures: list[str] = []
        self._records = records

    def epoch(self, name: str) -> None:
        validation_rmse = self._records[STAGE][name].last_rmse
        assert validation_rmse is not None
        trained = self.trials.setdefault(name, Trained([], []))
        trained.ends.append(time.time())
        trained.validation_rmse.append(validation_rmse)

    def ended(self, name: str) -> None:
        record = self._records[STAGE][name]
        if record.state != TrialState.COMPLETE:
            self.failures.append(f"{name}: {record.reason}")


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
    records: Records = {}
    clock = Clock(records)
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
            records,
        )
        callback = RunCallback(STAGE, context)
        for trial in trials:
            callback.on_trial_created(trial)
        tuner.run_trials(context, trials, callback)
    if clock.failures:
        raise RuntimeError("; ".join(clock.failures))
    return [clock.trials[trial.name] for trial in trials]
