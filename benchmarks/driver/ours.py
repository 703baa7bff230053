"""The driver with this project's searcher, scheduler and callback."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from ray import tune
from rich.console import Console

from benchmarks.driver.work import SPACE, Marks, objective
from benchmarks.untrained import epoch_result
from crnn_search.cli.display import PlainProgress
from crnn_search.cluster import connection
from crnn_search.cluster.resources import Allocation
from crnn_search.data.digits import Digits
from crnn_search.data.mnist_sums import MnistSums
from crnn_search.hyperparameters import Arithmetic
from crnn_search.pipeline import search
from crnn_search.spaces.file import parse_space
from crnn_search.spaces.space import SearchSpace
from crnn_search.storage.journal import Journal, read_history
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import Trial
from crnn_search.tuning import tuner
from crnn_search.tuning.budget import Budget, Limit
from crnn_search.tuning.context import Context


class Reporter(tune.Trainable):  # type: ignore[misc]
    """A trial that trains nothing."""

    def setup(self, config: dict[str, Any], **_: Any) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.trial, self.epoch = Trial.from_dict(new_config["trial"]), 0
        return True

    def step(self) -> dict[str, Any]:
        self.epoch += 1
        rmse = objective(self.trial.config.to_dict(), self.epoch)
        return epoch_result(self.epoch, rmse, done=self.epoch >= self.trial.epochs).to_dict()


class CountingProgress(PlainProgress):
    """Counts the trials that ended."""

    def __init__(self, marks: Marks) -> None:
        super().__init__(Console(quiet=True))
        self.marks = marks

    def ended(self, name: str) -> None:
        super().ended(name)
        self.marks.add()


def run(trials: int, every: int, folder: Path) -> dict[str, Any]:
    """Run a search and resume it; the marks, and the time to resume without and with Ray's."""
    space = parse_space(SPACE.format(trials=trials))
    folder = folder / "ours"
    folder.mkdir()
    progress = CountingProgress(Marks(every))
    with connection.connect(None):
        _search(space, folder, progress)
    start = time.monotonic()
    with connection.connect(None):
        resume_s = _search(space, folder, progress)
    return {
        "rows": progress.marks.rows,
        "resume_s": resume_s,
        "resume_all_s": time.monotonic() - start,
    }


def _search(space: SearchSpace, folder: Path, progress: CountingProgress) -> float:
    """Run what is left of the search; returns the seconds until Tune starts."""
    start = time.monotonic()
    run_folder = RunFolder(folder)
    history = read_history(run_folder.journal, run_folder.ledger)
    journal = Journal(run_folder, history.elapsed_s)
    images, labels = torch.zeros(1, 28, 28, dtype=torch.uint8), torch.zeros(1, dtype=torch.uint8)
    context = Context(
        run_folder,
        space,
        history,
        journal,
        MnistSums(Digits(images, labels), 8),
        Allocation(1, 0.0, 2),
        Arithmetic(),
        progress,
    )
    ready: list[float] = []
    run_search = tuner.run_search

    def timed(*arguments: Any) -> None:
        ready.append(time.monotonic() - start)
        run_search(*arguments)

    with (
        mock.patch.object(tuner, "TrialTrainable", Reporter),
        mock.patch.object(tuner, "run_search", timed),
    ):
        search.run_search(context, Limit(Budget(), space, 2, lambda: journal.elapsed_s))
    return ready[0]
