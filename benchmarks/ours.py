"""This project: its engine, through Ray Tune as in a search, journal and checkpoints included."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.work import MAX_DIGITS, Trained, Work, validation
from crnn_search.cluster.resources import Slots
from crnn_search.data.sequences import SequenceTable
from crnn_search.storage.journal import Journal
from crnn_search.storage.run_folder import RunPaths
from crnn_search.storage.trial import Job, JobRecord
from crnn_search.tuning import tuner
from crnn_search.tuning.callback import Recorder
from crnn_search.tuning.trainable import DigitSumTrainable


class Scaled(DigitSumTrainable):
    """Validates on as many sequences as the benchmark's peers do."""

    def _validation(self, max_digits: int) -> SequenceTable:
        return validation(self._labels, self._job.epoch_sequences)


class Clock:
    """A `Progress` that notes, where the search runs, when the results of each trial arrive."""

    def __init__(self) -> None:
        self.trials: dict[str, Trained] = {}
        self.failures: list[str] = []

    def stage(self, title: str, jobs: int, epochs: int, known: Sequence[JobRecord] = ()) -> None:
        pass

    def started(self, name: str) -> None:
        pass

    def epoch(self, name: str, epoch: int, rmse: float | None, loss: float) -> None:
        assert rmse is not None
        trained = self.trials.setdefault(name, Trained([], []))
        trained.ends.append(time.time())
        trained.rmse.append(rmse)

    def ended(self, name: str, state: str, reason: str | None) -> None:
        if state != "COMPLETE":
            self.failures.append(f"{name}: {reason}")

    def note(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


def run(work: Work) -> list[Trained]:
    """Both trials at once; Ray has been started."""
    config = work.spec().to_dict()
    jobs = [
        Job(
            name=f"seed-{seed}",
            number=number,
            config=config,
            seed=seed,
            epochs=work.epochs,
            grace_epochs=work.epochs,
            epoch_sequences=work.sequences,
            max_digits=MAX_DIGITS,
        )
        for number, seed in enumerate(work.seeds)
    ]
    patched: Any = tuner
    patched.DigitSumTrainable = Scaled
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        paths = RunPaths(Path(folder))
        journal = Journal(paths)
        recorder = Recorder("finalists", paths, journal, clock)
        for job in jobs:
            recorder.made(job)
        tuner.run_jobs(work.digits(), paths, jobs, Slots(1, 0.0, len(jobs)), recorder)
    if clock.failures:
        raise RuntimeError("; ".join(clock.failures))
    return [clock.trials[job.name] for job in jobs]
