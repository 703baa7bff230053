"""Everything that writes a file of a run: who may read it, and what a full disk leads to."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from crnn_search.cli.search import log_to
from crnn_search.data.sequences import SequenceTable
from crnn_search.errors import StorageError
from crnn_search.pipeline.manifest import Manifest
from crnn_search.results import scored
from crnn_search.results.page.pictures import write_sheet
from crnn_search.spaces.file import parse_space
from crnn_search.storage import retry
from crnn_search.storage.files import write_json, write_text
from crnn_search.storage.journal import History, Journal
from crnn_search.storage.run_folder import RunFolder
from crnn_search.training import checkpoint, engine
from crnn_search.tuning.checkpoints import CheckpointFolder
from crnn_search.tuning.study_mirror import StudyMirror
from crnn_search.tuning.tensorboard import TensorBoard
from tests.models.networks import SPECS, write
from tests.tuning import examples

CPU = torch.device("cpu")


def write_checkpoint(run: RunFolder) -> None:
    run.checkpoints.mkdir(exist_ok=True)
    state = engine.start(examples.SMALL, seed=0, epochs=1, device=CPU)
    CheckpointFolder(run.checkpoints / "trial-0000").save(examples.TRIAL, state, [])


def write_log(run: RunFolder) -> None:
    with log_to(run, verbose=False):
        logging.getLogger("any").warning("a line")


def copy_study(run: RunFolder) -> None:
    notes: list[str] = []
    with StudyMirror(run, SPACE, History(), "now", notes.append).running():
        pass
    for note in notes:
        raise NoteError(note)


def write_events(run: RunFolder) -> None:
    notes: list[str] = []
    task = examples.context(run.root).task
    board = TensorBoard(run.tensorboard / "search", SPACE, task, notes.append)
    board.write(examples.TRIAL, examples.metrics(1, 2.0))
    for note in notes:
        raise NoteError(note)


class NoteError(Exception):
    """The user was told, and the search goes on."""


NETWORK = SPECS["embedding"]
SPACE = parse_space("space: {}")
ONE = torch.zeros(1, dtype=torch.int64)
SHOWN = scored.Shown(ONE, ONE + 1, ONE, torch.ones(1), torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
SCORED = scored.Scored(
    SequenceTable(ONE[None].int(), ONE + 1, torch.ones(1)),
    {"winner": torch.ones(1, 1)},
    SHOWN,
    SHOWN,
    {"task": {"scale": 1.0}},
)

WRITERS: dict[str, Callable[[RunFolder], object]] = {
    "manifest": lambda run: Manifest.create(run, SPACE, {}).write(run),
    "space": lambda run: write_text(run.space, "space: {}"),
    "best": lambda run: write_json(run.best, {}),
    "journal": lambda run: Journal(run).start_session(),
    "ledger": lambda run: Journal(run).write_ended(examples.record(0, 1.0)),
    "checkpoint": write_checkpoint,
    "retrained model": lambda run: checkpoint.save_model(
        run.retrained_models / "a.safetensors",
        engine.start(examples.SMALL, seed=0, epochs=1, device=CPU).model,
        examples.SMALL,
        {},
    ),
    "pictures": lambda run: write_sheet(run.plots / "a.png", SCORED.worst, SCORED),
    "predictions": lambda run: scored.write(SCORED, run),
    "export": lambda run: write(NETWORK, run.model, "safetensors", "onnx"),
    "log": write_log,
    "study": copy_study,
    "events": write_events,
}
GO_ON = {"study", "events", "log"}
"""Without these files a run goes on."""


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "runs" / "demo")
    run.root.mkdir(parents=True)
    return run


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """A block in which this process can create files, but write nothing into them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def files(run: RunFolder) -> list[Path]:
    return [path for path in run.root.rglob("*") if path.is_file()]


@pytest.mark.parametrize("umask", [0o077, 0o027], ids=oct)
@pytest.mark.parametrize("name", WRITERS)
def test_the_umask_decides_who_may_read_a_run(run: RunFolder, name: str, umask: int) -> None:
    before = os.umask(umask)
    try:
        WRITERS[name](run)
    finally:
        os.umask(before)
    assert files(run)
    for path in files(run):
        assert oct(path.stat().st_mode & 0o777 & umask) == "0o0", path
        assert path.stat().st_mode & 0o600 == 0o600


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_a_storage_error_or_a_note(
    run: RunFolder, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    WRITERS["manifest"](run)  # loads what it needs
    kept = {path: path.read_bytes() for path in files(run)}
    if name == "log":
        with full_disk():
            write_log(run)
    else:
        kind = NoteError if name in GO_ON else StorageError
        with full_disk(), pytest.raises(kind, match=r"cannot write .*/demo"):
            WRITERS[name](run)
    assert "Traceback" not in capfd.readouterr().err
    assert {path: path.read_bytes() for path in kept} == kept
    assert [path.name for path in files(run) if path.name[0] == "."] == []
    WRITERS[name](run)  # once there is room


@pytest.mark.parametrize("name", sorted(WRITERS.keys() - {"export", "checkpoint"}))
def test_a_run_that_is_gone_is_an_error_or_a_note_and_not_created_again(
    run: RunFolder, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "RETRY_FOR_S", -1.0)
    shutil.rmtree(run.root)
    kind = NoteError if name in {"study", "events"} else StorageError
    with pytest.raises(kind, match=r"cannot write .*(No such file or dir|the folder does not ex)"):
        WRITERS[name](run)
    assert not run.root.exists()
