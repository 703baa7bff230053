"""The example that users can write and search."""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from crnn_search.data import mnist
from crnn_search.data.digits import Digits
from crnn_search.data.example import write_example
from crnn_search.data.read import read
from crnn_search.data.summary import shared
from crnn_search.errors import DataError
from crnn_search.spaces.file import parse_space

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> Digits:
    """1,000 images in place of MNIST."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (1000, 28, 28), generator=generator, dtype=torch.uint8)
    few = Digits(images, (torch.arange(1000) % 10).to(torch.uint8))
    monkeypatch.setattr(mnist, "load", lambda data_dir: few)
    return few


@pytest.mark.parametrize("coloured", [False, True])
def test_example_is_read(tmp_path: Path, few_digits: Digits, coloured: bool) -> None:
    write_example(tmp_path / "example", coloured=coloured, sequences=100)
    data = read(tmp_path / "example")
    assert len(data) == 100
    assert data.images.shape[1:] == (3 if coloured else 1, 28, 28)
    assert shared(data) == (0, 0)
    assert data.found.split_by == "given"
    sums: dict[str, int] = defaultdict(int)
    with (tmp_path / "example" / "metadata.csv").open() as file:
        for row, pixels in zip(csv.DictReader(file), data.images[data.indices], strict=True):
            image = int(row["file_name"].removeprefix("images/").removesuffix(".png"))
            if not coloured or pixels[0].mean() > pixels[2].mean():
                sums[row["sequence"]] += image % 10
    assert [sums[name] for name in data.names] == data.targets.tolist()


def test_space_of_an_example_is_valid(tmp_path: Path, few_digits: Digits) -> None:
    write_example(tmp_path / "example", sequences=20)
    space = yaml.safe_load((tmp_path / "example" / "space.yaml").read_text())
    assert space.pop("task") == {"data": ".", "target": "sum"}
    assert parse_space(yaml.safe_dump(space)).search.trials == 8


def test_example_is_the_same_each_time(tmp_path: Path, few_digits: Digits) -> None:
    for name in "ab":
        write_example(tmp_path / name, sequences=20)
    assert read(tmp_path / "a").digest == read(tmp_path / "b").digest


def test_example_of_scikit_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 17, (100, 8, 8)).astype(float)
    bunch = SimpleNamespace(images=images, target=np.arange(100) % 10)
    package, module = ModuleType("sklearn"), ModuleType("sklearn.datasets")
    monkeypatch.setattr(module, "load_digits", lambda: bunch, raising=False)
    monkeypatch.setitem(sys.modules, "sklearn", package)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", module)
    write_example(tmp_path / "example", source="digits", sequences=50)
    data = read(tmp_path / "example")
    assert data.images.shape[1:] == (1, 8, 8)
    assert data.images.max() == 255


def test_example_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match="must be a new or an empty folder"):
        write_example(tmp_path)
    with pytest.raises(DataError, match="source must be one of mnist, digits, got 'cats'"):
        write_example(tmp_path / "example", source="cats")
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match="scikit-learn's: pip install scikit-learn"):
        write_example(tmp_path / "example", source="digits")
