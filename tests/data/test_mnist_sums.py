"""The built-in task."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from crnn_search.data import mnist
from crnn_search.data.digits import Digits
from crnn_search.data.mnist_sums import MnistSource, MnistSums
from crnn_search.data.sequences import SequenceTable
from crnn_search.data.task import Draw
from crnn_search.data.task_info import TaskInfo
from crnn_search.hyperparameters import MNIST_SHAPE


def digest(table: SequenceTable) -> str:
    parts = (table.indices, table.lengths, table.targets)
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()[:16]


def test_sequences_are_pinned() -> None:
    """A change would make figures of earlier runs and of later ones incomparable."""
    labels = (torch.arange(61_000) * 7 % 10).to(torch.uint8)
    task = MnistSums(Digits(torch.zeros(61_000, 1, 1, dtype=torch.uint8), labels), 8)
    draw = Draw(500, 8, seed=3, epoch=1, batch_size=32)
    assert digest(task.training_table(draw)) == "5361289d47ac4bc2"
    assert digest(task.training_table(replace(draw, everything=True))) == "ac2fcdbe762cfef0"
    assert digest(task.validation_table()) == "e776f16e6d2eda89"
    assert digest(task.testing_table()) == "651d055bfcbd8e8d"


def test_source_loads_test_images_on_demand_only(
    monkeypatch: pytest.MonkeyPatch, digits: Digits, tmp_path: Path
) -> None:
    asked: list[tuple[Path | None, bool]] = []

    def load(data_dir: Path | None, *, test_images: bool) -> Digits:
        asked.append((data_dir, test_images))
        return digits

    monkeypatch.setattr(mnist, "load", load)
    source = MnistSource(8, tmp_path)
    assert (source.warnings, asked) == ([], [])
    task = source.load()
    assert source.load(test=True).images.shape == (61_000, 1, 28, 28)
    assert asked == [(tmp_path, False), (tmp_path, True)]
    assert task.facts == []
    assert task.info == source.info == TaskInfo(
        "mnist_sums", "mnist_sums/8", "sum", MNIST_SHAPE, longest=8, sums=True
    )  # fmt: skip


def test_processes_share_the_memory_of_images(digits: Digits) -> None:
    task = MnistSums(digits, 8)
    draw = Draw(9, 8, 0, 0, 32)
    task.training_table(draw)
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(task, protocol=5, buffer_callback=buffers.append)
    again: MnistSums = pickle.loads(content, buffers=buffers)
    assert again.images.data_ptr() == task.images.data_ptr()
    assert digest(again.training_table(draw)) == digest(task.training_table(draw))
