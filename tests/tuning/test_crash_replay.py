"""A crash at every line that a small search writes: it ends as if it had not crashed."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from crnn_search.cluster.resources import Allocation
from crnn_search.data.digits import Digits
from crnn_search.data.mnist_sums import MnistSums
from crnn_search.hyperparameters import Arithmetic, ModelSpec
from crnn_search.pipeline import finalists, recovery, search
from crnn_search.spaces.file import parse_space
from crnn_search.storage import jsonl
from crnn_search.storage.journal import Journal
from crnn_search.storage.run_folder import RunFolder
from crnn_search.storage.trial import Trial
from crnn_search.tuning import stage_log, tuner
from crnn_search.tuning.budget import Budget, Limit
from crnn_search.tuning.context import Context
from crnn_search.tuning.progress import Progress
from tests.small_run import without
from tests.tuning.fake_tune import FakeTune

SPACE = parse_space("""
search: {trials: 8, max_epochs: 3, grace_epochs: 1, reduction_factor: 2, seed: 3,
         max_concurrent_trials: 1}
retrain: {finalists: 2, seeds: 2}
space:
  conv_channels: {list_of: {int: [2, 4]}, length: [1, 6]}
  kernel_size: 3
  padding: valid
  dropout: {float: [0.0, 0.5]}
  learning_rate: {float: [1.0e-4, 2.0e-2], log: true}
""")
"""Some of its networks are infeasible: six convolutions leave no pixels."""

ACCIDENTS = {
    ("trial-0002", 2, 0): "death",
    ("trial-0002", 3, 1): "death",
    ("trial-0003", 1, 0): "nan",
    ("trial-0004", 1, 0): "memory",
    ("trial-0004", 1, 1): "memory",
    ("trial-0005", 1, 0): "error",
    ("trial-0008-seed-1", 2, 0): "death",
}
"""By trial, epoch, and how often the trial was retried; after a crash they happen again."""

IGNORED = {"seconds", "core_seconds"}
"""Times: an epoch that is trained twice takes twice as long."""

TASK = MnistSums(
    Digits(torch.zeros(1, 28, 28, dtype=torch.uint8), torch.zeros(1, dtype=torch.uint8)), 8
)
PROGRESS = mock.create_autospec(Progress, instance=True)


class CrashError(BaseException):
    """The process ends: no code catches it."""


@dataclass(frozen=True)
class Crash:
    """What a crash leaves: the bytes of each file, and the saved epochs of each trial."""

    files: dict[str, bytes]
    saved: dict[str, int]


class Session:
    """A process that works on a run in a folder.

    lines: how many it writes before it crashes. crashes: what a crash would have left within each
    line and after it.
    """

    def __init__(self, folder: Path, left: Crash = Crash({}, {}), lines: float = math.inf) -> None:
        folder.mkdir()
        for name, content in left.files.items():
            (folder / name).write_bytes(content)
        self.run = RunFolder(folder)
        self.tune = FakeTune(folder, accident, dict(left.saved))
        self.lines = lines
        self.crashes: list[tuple[Crash, Crash]] = []
        self._append = jsonl.append

    def work(self) -> dict[str, Any]:
        """Do what is left of the search and the finalists' repetitions; returns the results."""
        with (
            mock.patch.object(jsonl, "append", self._append_and_copy),
            mock.patch.object(tuner, "_fit", self.tune.fit),
        ):
            history = recovery.recover(self.run, PROGRESS.note)
            journal = Journal(self.run, history.elapsed_s)
            allocation, arithmetic = Allocation(1, 0.0, 1), Arithmetic()
            context = Context(
                self.run, SPACE, history, journal, TASK, allocation, arithmetic, PROGRESS
            )
            limit = Limit(Budget(), SPACE, 1, lambda: journal.elapsed_s)
            journal.start_session()
            finalists.choose(search.run_search(context, limit), context)
        results = [json.loads(path.read_text()) for path in (self.run.finalists, self.run.best)]
        return {
            "ledger": without(IGNORED, jsonl.read(self.run.ledger)),
            "finalists and best": without(IGNORED, results),
        }

    def left(self) -> Crash:
        """What a crash now would leave."""
        files = (self.run.journal, self.run.ledger)
        content = {path.name: path.read_bytes() for path in files if path.exists()}
        return Crash(content, dict(self.tune.saved))

    def _append_and_copy(self, path: Path, record: jsonl.Record) -> None:
        if self.lines == 0:
            raise CrashError
        self.lines -= 1
        before = self.left()
        self._append(path, record)
        after = self.left()
        old, new = before.files.get(path.name, b""), after.files[path.name]
        torn = new[: (len(old) + len(new)) // 2]
        within = Crash({**before.files, path.name: torn}, before.saved)
        self.crashes.append((within, after))


def accident(trial: Trial, epoch: int, retries: int) -> str | None:
    return ACCIDENTS.get((trial.name, epoch, retries))


@pytest.fixture(autouse=True)
def without_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes long and is not read again."""
    monkeypatch.setattr("os.fsync", lambda handle: None)
    monkeypatch.setattr(recovery, "temporary", mock.MagicMock())
    monkeypatch.setattr(stage_log, "TensorBoard", mock.MagicMock())


@pytest.fixture
def whole(tmp_path: Path, without_disk: None) -> tuple[Session, dict[str, Any]]:
    """A session that does not crash, and its results."""
    session = Session(tmp_path / "whole")
    return session, session.work()


def test_the_search_has_all_that_a_crash_may_interrupt(
    whole: tuple[Session, dict[str, Any]],
) -> None:
    states = Counter(trial["state"] for trial in whole[1]["ledger"])
    assert states.keys() == {"COMPLETE", "PRUNED", "FAIL", "INFEASIBLE"}
    events = Counter(event["event"] for event in jsonl.read(whole[0].run.journal))
    assert events.keys() == {
        "session", "stage", "infeasible", "trial", "epoch", "spent", "retry", "ended"
    }  # fmt: skip
    assert events["retry"] == 4


@pytest.mark.parametrize("third", [0, 1, 2])
@pytest.mark.parametrize("part", [0, 1], ids=["within", "after"])
def test_a_crash_at_every_line(
    part: int, third: int, tmp_path: Path, whole: tuple[Session, dict[str, Any]]
) -> None:
    session, expected = whole
    for line in range(third, len(session.crashes), 3):
        resumed = Session(tmp_path / f"resumed-{line}", session.crashes[line][part])
        assert resumed.work() == expected, f"line {line + 1} was the last"


def test_a_resumed_search_does_not_measure_again(
    tmp_path: Path, without_disk: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that would now answer otherwise changes no trial of the journal."""

    def slow_if_deep(spec: ModelSpec, *_: Any) -> float:
        return len(spec.conv_channels)

    measure = "crnn_search.tuning.searcher.ms_per_sequence"
    limited = SPACE.search.model_copy(update={"max_ms_per_sequence": 2.0})
    monkeypatch.setitem(globals(), "SPACE", dataclasses.replace(SPACE, search=limited))
    monkeypatch.setattr(measure, slow_if_deep)
    session = Session(tmp_path / "whole")
    expected = session.work()
    reasons = {trial["reason"] for trial in expected["ledger"] if trial["state"] == "INFEASIBLE"}
    assert "the network takes 3 ms for a sequence; search.max_ms_per_sequence is 2" in reasons
    monkeypatch.setattr(measure, lambda *_: pytest.fail("measured again"))
    journals = [after.files["journal.jsonl"].splitlines() for _, after in session.crashes]
    created = [sum(json.loads(line)["event"] == "trial" for line in lines) for lines in journals]
    for line in range(created.index(8), len(created), 7):  # from where all trials are created
        resumed = Session(tmp_path / f"resumed-{line}", session.crashes[line][1])
        assert resumed.work() == expected, f"line {line + 1} was the last"


def test_a_crash_after_every_new_line(
    tmp_path: Path, whole: tuple[Session, dict[str, Any]]
) -> None:
    left = Crash({}, {})
    for count in itertools.count():
        session = Session(tmp_path / f"session-{count}", left, lines=4)
        try:
            assert session.work() == whole[1]
            break
        except CrashError:
            left = session.left()
    assert count > 10
