from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from crnn_search.tuning.tensorboard import TensorBoard
from tests.tuning.examples import metrics, trial


def test_hyperparameters_and_scalars_are_in_one_file(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path, pytest.fail)
    board.write(trial(), metrics(1, 3.0))
    board.write(trial(), metrics(2, 2.0))
    board.close("trial-0000")
    (file,) = (tmp_path / "trial-0000").iterdir()
    events = EventAccumulator(str(file)).Reload()
    values = [(event.step, event.value) for event in events.Scalars("validation_rmse")]
    assert values == [(1, 3.0), (2, 2.0)]
    text = str(events.summary_metadata["_hparams_/session_start_info"])
    assert "conv_channels.length" in text


def test_trial_without_validation_has_no_validation_rmse(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path, pytest.fail)
    board.write(trial(), metrics(1, None))
    board.close("trial-0000")
    events = EventAccumulator(str(tmp_path / "trial-0000")).Reload()
    assert "train_loss" in events.Tags()["scalars"]
    assert "validation_rmse" not in events.Tags()["scalars"]


def test_a_trial_that_is_resumed_has_a_file_with_all_its_epochs(tmp_path: Path) -> None:
    for epoch in (1, 2):
        board = TensorBoard(tmp_path, pytest.fail)
        board.write(trial(), metrics(epoch, 4.0 - epoch))
        board.close("trial-0000")
    events = EventAccumulator(str(tmp_path / "trial-0000")).Reload()
    assert [event.step for event in events.Scalars("validation_rmse")] == [1, 2]


def test_a_folder_that_cannot_be_written_is_a_note_and_no_more(tmp_path: Path) -> None:
    notes: list[str] = []
    (tmp_path / "tensorboard").touch()
    board = TensorBoard(tmp_path / "tensorboard" / "search", notes.append)
    for epoch in (1, 2):
        board.write(trial(), metrics(epoch, 1.0))
    board.close("trial-0000")
    (note,) = notes
    assert note.startswith("cannot write TensorBoard's files in ")
    assert note.endswith("tensorboard/search: File exists")
