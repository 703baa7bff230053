from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from crnn_search.data.digits import Digits
from crnn_search.data.running_sheet import COLUMNS, Row, chosen, running_sheet
from crnn_search.hyperparameters import MNIST_SHAPE, TrialConfig
from crnn_search.spaces.file import parse_space
from crnn_search.storage.trial import TrialRecord, TrialState
from crnn_search.tuning.hparams import searched_values
from crnn_search.tuning.tensorboard import PICTURE, TensorBoard
from tests.conftest import small_table
from tests.tasks import FewDigits
from tests.tuning.examples import context, metrics, record, trial

SPACE = parse_space("""
search: {max_epochs: 4, reduction_factor: 2}
space:
  conv_channels: {list_of: {int: [2, 8]}, length: [1, 3]}
  kernel_size: {choice: [3, [5, 3]]}
  gru_sizes: [8]
  affine: {float: [0.0, 0.5]}
  batch_size: {choice: [32, 64]}
  optimizer: {choice: [adamw, rmsprop]}
  dropout: 0.0
  learning_rate: {float: [1.0e-3, 1.0e-2], log: true}
""")

FIRST = {"learning_rate", "conv_channels", "kernel_size", "affine", "batch_size"}
LATER = {"optimizer", "conv_channels.length", "kernel_size.length", "kernel_size.0"}
LATER |= {"kernel_size.1", *(f"conv_channels.{place}" for place in range(3))}


def board(folder: Path, **changes: Any) -> TensorBoard:
    """TensorBoard's files of the search of a run in `folder`."""
    task = context(folder).task
    arguments: dict[str, Any] = {"folder": folder / "tensorboard" / "search", "space": SPACE}
    (folder / "tensorboard").mkdir(exist_ok=True)
    return TensorBoard(**arguments | {"task": task, "note": pytest.fail} | changes)


def events(folder: Path, *names: str) -> EventAccumulator:
    return EventAccumulator(str(folder.joinpath("tensorboard", *names))).Reload()


def values(found: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in found.Scalars(tag)]


def test_scalars_are_grouped_and_in_the_unit_of_the_target(tmp_path: Path) -> None:
    written = board(tmp_path)
    written.write(trial(), metrics(1, 3.0, 16.0))
    written.write(trial(), metrics(2, 2.0, 9.0))
    found = events(tmp_path, "search", "trial-0000")
    assert values(found, "validation/rmse") == [(1, 3.0), (2, 2.0)]
    assert values(found, "train/rmse") == [(1, 4.0), (2, 3.0)]
    groups = {tag.split("/")[0] for tag in found.Tags()["scalars"]}
    assert groups == {"validation", "train", "system"}
    assert len(list((tmp_path / "tensorboard" / "search" / "trial-0000").iterdir())) == 1


def test_a_diverged_epoch_is_written(tmp_path: Path) -> None:
    written = board(tmp_path)
    written.write(trial(), metrics(1, float("inf"), float("nan")))
    assert values(events(tmp_path, "search", "trial-0000"), "validation/rmse") == [
        (1, float("inf"))
    ]


def test_trial_without_validation_has_no_validation_rmse(tmp_path: Path) -> None:
    board(tmp_path).write(trial(), metrics(1, None))
    scalars = events(tmp_path, "search", "trial-0000").Tags()["scalars"]
    assert "train/rmse" in scalars
    assert "validation/rmse" not in scalars


def test_hparams_have_what_is_searched_and_nothing_else(tmp_path: Path) -> None:
    written = board(tmp_path)
    written.write(trial(), metrics(1, 3.0))
    content = events(tmp_path).summary_metadata[metadata.EXPERIMENT_TAG].plugin_data.content
    experiment = metadata.parse_experiment_plugin_data(content)
    assert {info.name for info in experiment.hparam_infos} == FIRST | LATER
    assert {info.name for info in experiment.hparam_infos if info.differs} == FIRST
    named = events(tmp_path, "search", "trial-0000").summary_metadata
    start = named[metadata.SESSION_START_INFO_TAG].plugin_data.content
    session = metadata.parse_session_start_info_plugin_data(start)
    assert session.group_name == "trial-0000"
    assert set(session.hparams) <= FIRST | LATER


def test_lists_are_texts_and_numbers() -> None:
    config = {"conv_channels": [4, 8], "kernel_size": [5, 3], "gru_sizes": [8]}
    found = searched_values(SPACE, TrialConfig.from_dict(config).to_dict())
    assert found["conv_channels"] == "4-8"
    assert (found["conv_channels.length"], found["conv_channels.0"]) == (2, 4)
    assert found["kernel_size"] == "5-3"
    assert "conv_channels.2" not in found
    assert "gru_sizes" not in found
    deeper = searched_values(SPACE, TrialConfig.from_dict({"conv_channels": [1] * 6}).to_dict())
    assert "conv_channels.3" not in deeper


@pytest.mark.parametrize(
    ("ended", "expected"),
    [
        (
            record(0, 3.0, 2.0, state=TrialState.COMPLETE),
            {"rmse_full_budget": 2.0, "state": 1.0, "epochs": 2.0},
        ),
        (
            record(0, 3.0, state=TrialState.PRUNED),
            {"rmse_where_stopped": 3.0, "state": 0.0, "epochs": 1.0},
        ),
        (record(0, 3.0, None, state=TrialState.FAIL), {"state": -1.0, "epochs": 2.0}),
        (
            TrialRecord(trial(all_images=True), train_loss=[4.0], state=TrialState.COMPLETE),
            {"train_rmse_retrained": 2.0, "state": 1.0, "epochs": 1.0},
        ),
    ],
)
def test_figures_of_different_budgets_are_apart(
    tmp_path: Path, ended: TrialRecord, expected: dict[str, float]
) -> None:
    written = board(tmp_path)
    written.write(ended.trial, metrics(1, 3.0))
    written.ended(dataclasses.replace(ended, seconds=7.0))
    found = events(tmp_path, "search", "trial-0000")
    tags = [tag for tag in found.Tags()["scalars"] if tag.startswith("trial/")]
    figures = {tag.removeprefix("trial/"): values(found, tag)[-1][1] for tag in tags}
    assert figures.pop("parameters") == ended.trial.config.model.parameter_count(MNIST_SHAPE)
    assert figures == expected | {"seconds": 7.0}
    assert metadata.SESSION_END_INFO_TAG in found.summary_metadata


def test_a_trial_that_is_resumed_has_a_file_with_all_its_epochs(tmp_path: Path) -> None:
    for epoch in (1, 2):
        board(tmp_path).write(trial(), metrics(epoch, 4.0 - epoch))
    found = events(tmp_path, "search", "trial-0000")
    assert [step for step, _ in values(found, "validation/rmse")] == [1, 2]
    assert len(list((tmp_path / "tensorboard").glob("events.*"))) == 1


def test_a_rung_has_a_picture(tmp_path: Path, digits: Digits) -> None:
    task = FewDigits(digits)
    running = [[1.0] * int(length) for length in chosen(task.validation_table()).lengths]
    written = board(tmp_path, task=task)
    for epoch in (1, 2, 3, 4, 5):
        written.write(trial(epochs=5), metrics(epoch, 1.0), running)
    images = events(tmp_path, "search", "trial-0000").Images(PICTURE)
    assert [image.step for image in images] == [1, 2, 4, 5]


def test_a_picture_has_a_dozen_sequences_of_all_lengths(digits: Digits) -> None:
    table = chosen(small_table(digits, 500))
    assert len(table) == 12
    assert set(table.lengths.tolist()) == set(range(1, 9))
    parts = [images[:n] for images, n in zip(table.indices, table.lengths.tolist(), strict=True)]
    rows = [
        Row(digits.pixels[part.long()].numpy(), [math.nan] * len(part), "true 3") for part in parts
    ]
    grey = Image.open(io.BytesIO(running_sheet(rows)))
    assert (grey.mode, grey.width) == ("L", 4 + 8 * 60 + 90)


def test_a_picture_of_long_sequences_of_noise_is_small() -> None:
    images = np.random.default_rng(0).integers(256, size=(12, 40, 3, 64, 48), dtype=np.uint8)
    found = running_sheet([Row(pixels, [1e5] * 40, "true -0.001") for pixels in images])
    picture = Image.open(io.BytesIO(found))
    assert picture.width == 4 + COLUMNS * 60 + 90
    assert len(found) < 400_000


def test_two_hundred_trials_have_less_than_50_mb(tmp_path: Path, digits: Digits) -> None:
    """Five of them, which are all trained to their end: no search does that."""
    task = FewDigits(digits)
    running = [[1.0] * int(length) for length in chosen(task.validation_table()).lengths]
    written = board(tmp_path, task=task, space=parse_space("space: {}"))
    for number in range(5):
        one = trial(number, epochs=27)
        for epoch in range(1, 28):
            written.write(one, metrics(epoch, 1.0), running)
        written.ended(record(number, *[1.0] * 27, state=TrialState.COMPLETE))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(events(tmp_path, "search", "trial-0000").Images(PICTURE)) == 4
    assert 40 * sum(path.stat().st_size for path in files) < 50e6


def test_a_folder_that_cannot_be_written_is_a_note_and_no_more(tmp_path: Path) -> None:
    notes: list[str] = []
    folder = tmp_path / "tensorboard" / "search"
    written = board(tmp_path, note=notes.append)
    folder.parent.rmdir()
    folder.parent.touch()
    for epoch in (1, 2):
        written.write(trial(), metrics(epoch, 1.0))
    (note,) = notes
    assert note.startswith("cannot write TensorBoard's files in ")
    assert note.endswith("tensorboard/search: File exists")
