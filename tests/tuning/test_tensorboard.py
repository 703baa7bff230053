from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from crnn_search.tuning.tensorboard import TensorBoard
from tests.tuning.examples import metrics, trial


def test_hyperparameters_and_scalars_are_in_one_file(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path)
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
    board = TensorBoard(tmp_path)
    board.write(trial(), metrics(1, None))
    board.close("trial-0000")
    events = EventAccumulator(str(tmp_path / "trial-0000")).Reload()
    assert "train_loss" in events.Tags()["scalars"]
    assert "validation_rmse" not in events.Tags()["scalars"]
