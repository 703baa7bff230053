"""Trials that wait in the middle of a search until they are let go."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import pytest
import torch

from crnn_search.data.digits import Digits
from tests import held
from tests.held_trials import HeldWorker
from tests.tasks import FewDigits
from tests.tuning.examples import TRIAL


@pytest.fixture
def worker(tmp_path: Path, digits: Digits, monkeypatch: pytest.MonkeyPatch) -> HeldWorker:
    """A worker of the search `demo`, whose host's home is `tmp_path`."""
    monkeypatch.setenv(held.FOLDER, str(tmp_path))
    checkpoints = tmp_path / "runs" / "demo" / "checkpoints"
    checkpoints.mkdir(parents=True)
    return HeldWorker(FewDigits(digits), str(checkpoints), torch.device("cpu"))


def test_the_first_trials_do_not_wait(worker: HeldWorker) -> None:
    worker.take(dataclasses.replace(TRIAL, number=held.FREE - 1))
    assert [worker.step().epoch for _ in range(2)] == [1, 2]


def test_a_later_trial_waits_before_its_second_epoch(worker: HeldWorker, tmp_path: Path) -> None:
    worker.take(dataclasses.replace(TRIAL, number=held.FREE))
    assert worker.step().epoch == 1
    epochs: list[int] = []
    step = threading.Thread(target=lambda: epochs.append(worker.step().epoch))
    step.start()
    step.join(1)
    assert step.is_alive()
    assert not epochs
    held.go_file("demo", tmp_path).touch()
    step.join(10)
    assert epochs == [2]


def test_a_trial_that_nobody_lets_go_fails_with_a_reason(
    worker: HeldWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "HELD_FOR_S", 0.2)
    worker.take(dataclasses.replace(TRIAL, number=held.FREE))
    worker.step()
    assert worker.step().failure == "TimeoutError: nobody has let the trial go for 0 s"


def test_what_a_trial_notices_is_on_its_host_at_once(worker: HeldWorker, tmp_path: Path) -> None:
    worker.take(dataclasses.replace(TRIAL, number=held.FREE))
    worker._note("the storage is away")
    assert held.notes_file("demo", tmp_path).read_text() == "the storage is away\n"
    assert worker._notes == ["the storage is away"]
