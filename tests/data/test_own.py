"""A data set as a task: its tables, and what its training draws."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crnn_search.data.arrays import SequenceData
from crnn_search.data.own import Longer, OwnSource, at_most
from crnn_search.data.read import read
from crnn_search.data.sequences import SequenceTable
from crnn_search.data.task import Draw
from crnn_search.data.task_info import TaskInfo
from crnn_search.errors import ConfigError
from crnn_search.hyperparameters import ImageShape

COUNT, LONGEST = 40, 6


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OwnSource:
    """40 sequences; each image's first pixel is its sequence, and its second one its place."""
    monkeypatch.setenv("CRNN_SEARCH_CACHE", str(tmp_path))
    images = np.zeros((COUNT, LONGEST, 8, 10), np.uint8)
    images[:, :, 0, 0] = np.arange(COUNT)[:, None]
    images[:, :, 0, 1] = np.arange(LONGEST)
    lengths = np.arange(COUNT) % LONGEST + 1
    data = SequenceData(images=images, lengths=lengths, targets=1e6 + 3.0 * np.arange(COUNT))
    return OwnSource(read(data), "clips", "mm")


def test_info_standardises_by_training_targets(source: OwnSource) -> None:
    data, info = source.dataset, source.info
    training = data.targets[data.rows("train")]
    assert (info.center, info.scale) == (training.mean(), training.std())
    assert (info.name, info.target, info.unit, info.sums) == ("clips", "target", "mm", False)
    assert info.shape == ImageShape(1, 8, 10)
    assert info.longest == LONGEST
    assert info.data == f"{data.digest}/drop"
    assert TaskInfo.from_dict(info.to_dict()) == info


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [2, 8, 8]}, "image_shape must be 1 or 3 channels"),
        ({"longest": 0}, "longest must be a whole number from 1 on, got 0"),
        ({"scale": 0.0}, r"scale must be a positive number, got 0\.0"),
        ({"center": "1"}, "center must be of type float, got '1'"),
        ({"surprise": 1}, "unexpected keyword argument 'surprise'"),
    ],
)
def test_altered_info_is_refused(source: OwnSource, change: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        TaskInfo.from_dict(source.info.to_dict() | change)


def test_tables_have_the_sequences_of_their_split(source: OwnSource) -> None:
    task, seen = source.load(test=True), []
    for split, table in (
        ("train", task.training), ("validation", task.validation), ("test", task.testing_table())
    ):  # fmt: skip
        rows = source.dataset.rows(split)
        assert table.targets.tolist() == source.dataset.targets[rows].tolist()
        for indices, length, target in zip(
            table.indices, table.lengths.tolist(), table.targets, strict=True
        ):
            pixels = task.images[indices[:length].long(), 0, 0]
            assert set(pixels[:, 0].tolist()) == {int(target - 1e6) // 3}
            assert pixels[:, 1].tolist() == list(range(length))
            seen.append(int(target))
    assert len(set(seen)) == COUNT


def test_test_images_are_not_loaded_for_training(source: OwnSource) -> None:
    task = source.load()
    assert task.test is None
    shown = set(task.images[:, 0, 0, 0].tolist())
    assert shown == {int(t - 1e6) // 3 for table in (task.training, task.validation)
                     for t in table.targets.tolist()}  # fmt: skip


def test_other_processes_share_the_images(source: OwnSource) -> None:
    task = source.load()
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(task, 5, buffer_callback=buffers.append)
    assert len(pickled) < task.images.nbytes
    again = pickle.loads(pickled, buffers=buffers)
    assert again.images.data_ptr() == task.images.data_ptr()
    assert torch.equal(again.training.indices, task.training.indices)
    assert again.info == task.info


def test_an_epoch_draws_without_replacement(source: OwnSource) -> None:
    task = source.load()
    targets = sorted(task.training.targets.tolist())
    draw = Draw(1000, LONGEST, seed=1, epoch=0, batch_size=32)
    whole = task.training_table(draw)
    assert sorted(whole.targets.tolist()) == targets
    part = task.training_table(dataclasses.replace(draw, sequences=10))
    assert part.targets.tolist() == whole.targets[:10].tolist()
    other = task.training_table(dataclasses.replace(draw, sequences=10, epoch=1))
    assert part.targets.tolist() != other.targets.tolist()
    both = task.training_table(dataclasses.replace(draw, everything=True))
    assert sorted(both.targets.tolist()) == sorted(targets + task.validation.targets.tolist())


def test_too_short_a_limit_is_refused(source: OwnSource) -> None:
    task = source.load()
    with pytest.raises(ConfigError, match="no training sequence has at most 0 images"):
        task.training_table(Draw(10, 0, seed=1, epoch=0, batch_size=32))


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    longest=st.integers(1, 7),
    longer=st.sampled_from(["drop", "first", "last"]),
)
def test_longer_sequences(lengths: list[int], longest: int, longer: Longer) -> None:
    sequences = [list(range(10 * row, 10 * row + n)) for row, n in enumerate(lengths, start=1)]
    indices = torch.zeros(len(lengths), max(lengths), dtype=torch.int32)
    for row, images in enumerate(sequences):
        indices[row, : len(images)] = torch.tensor(images)
    targets = torch.arange(len(lengths))
    found = at_most(SequenceTable(indices, torch.tensor(lengths), targets), longest, longer)
    if longer == "drop":
        expected = [(row, s) for row, s in enumerate(sequences) if len(s) <= longest]
    else:
        part = slice(None, longest) if longer == "first" else slice(-longest, None)
        expected = [(row, images[part]) for row, images in enumerate(sequences)]
    assert found.targets.tolist() == [row for row, _ in expected]
    assert [i[:n].tolist() for i, n in zip(found.indices, found.lengths.tolist(), strict=True)] == [
        images for _, images in expected
    ]
    padding = torch.arange(found.indices.shape[1]) >= found.lengths[:, None]
    assert not found.indices[padding].any()


def test_report_says_what_is_in_the_data(source: OwnSource) -> None:
    facts = dict(source.load().facts)
    assert facts["lengths"] == "1 to 6, median 3"
    assert facts["splits"].endswith("; drawn by sequence")
    assert "warning" not in facts


def test_sequences_in_two_splits_are_a_warning(source: OwnSource) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 2, 8, 8), dtype=np.uint8)
    images[3] = images[0]
    split = ["train", "train", "validation", "test"] * 3
    data = SequenceData(images=images, lengths=None, targets=np.arange(12), split=split)
    shared = OwnSource(read(data), "clips")
    assert [text for name, text in shared.load().facts if name == "warning"] == shared.warnings
    assert shared.warnings == [
        "2 identical images are in more than one split: scores may be too good",
        "1 sequence is in more than one split: scores may be too good",
    ]
