"""The data of a run: of a new one, and of one that is continued."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from crnn_search.data.arrays import SequenceData
from crnn_search.data.mnist import FILES
from crnn_search.data.mnist_sums import MnistSource
from crnn_search.data.own import OwnSource
from crnn_search.errors import DataError, InputError
from crnn_search.pipeline import source
from crnn_search.pipeline.manifest import Manifest
from crnn_search.spaces.file import parse_space
from crnn_search.spaces.space import to_yaml
from crnn_search.storage.cache import CACHE_VARIABLE
from crnn_search.storage.files import write_text
from crnn_search.storage.run_folder import RunFolder

SPACE = "task: {data: clips.npz, unit: mm, longer: last}\nspace: {}"
TASK = parse_space(SPACE).task


def arrays(seed: int = 0) -> SequenceData:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (20, 3, 8, 8), dtype=np.uint8)
    return SequenceData(images=images, lengths=None, targets=random.random(20))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_mnist_is_not_read_yet(tmp_path: Path) -> None:
    space = parse_space("task: {max_digits: 3}\nspace: {}")
    found = source.open_source(space.task, tmp_path / "missing")
    assert isinstance(found, MnistSource)
    assert found.info.longest == 3
    assert source.digests(found) == FILES
    assert source.fit_to(found, space) is space
    with pytest.raises(DataError, match="missing"):
        found.load()


@pytest.fixture
def run(cache: Path, tmp_path: Path) -> RunFolder:
    """A run that was launched on `arrays`."""
    run = RunFolder(tmp_path / "run")
    run.root.mkdir()
    space = parse_space(SPACE)
    write_text(run.space, to_yaml(space))
    sha256 = source.digests(source.open_source(space.task, data=arrays()))
    Manifest.create(run, space, sha256).write(run)
    return run


def test_a_run_continues_with_its_own_data(run: RunFolder, cache: Path) -> None:
    found = source.open_again(run)  # clips.npz does not exist
    assert isinstance(found, OwnSource)
    assert (found.info.name, found.info.unit) == ("clips", "mm")
    shutil.rmtree(cache)
    assert source.open_again(run, data=arrays()).info == found.info


def test_a_run_that_has_its_data_needs_no_other_place(run: RunFolder, cache: Path) -> None:
    found = source.open_again(run)
    source.keep(found, run)
    images = found.load(test=True).images.clone()
    shutil.rmtree(cache)
    again = source.open_again(run)
    assert again.info == found.info
    assert torch.equal(again.load(test=True).images, images)
    (run.data / source.digests(found)["dataset"] / "images.uint8").write_bytes(b"altered")
    with pytest.raises(DataError, match="is not a complete data set: it was altered"):
        source.open_again(run)


def test_a_large_data_set_is_not_kept(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "KEPT_BYTES", 20 * 3 * 64)
    source.keep(source.open_again(run), run)
    assert not run.data.exists()


def test_other_data_are_refused(run: RunFolder, cache: Path) -> None:
    shutil.rmtree(cache)
    with pytest.raises(InputError, match=r"clips\.npz are not those that the run was launched"):
        source.open_again(run, data=arrays(1))
    with pytest.raises(DataError, match=r"clips\.npz cannot be read: No such file"):
        source.open_again(run)
