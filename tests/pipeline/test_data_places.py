"""Where the data of a run are read from: its space, another place that is named, a bucket."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from crnn_search.data.own import OwnSource
from crnn_search.data.task import Source
from crnn_search.errors import DataError, InputError
from crnn_search.pipeline import source
from crnn_search.pipeline.manifest import Manifest
from crnn_search.spaces.file import parse_space
from crnn_search.spaces.space import SearchSpace, to_yaml
from crnn_search.storage.cache import CACHE_VARIABLE
from crnn_search.storage.files import write_text
from crnn_search.storage.location import join
from crnn_search.storage.object_store import ObjectStore
from crnn_search.storage.run_folder import RunFolder
from tests.data.folders import clips
from tests.storage.conftest import s3 as s3
from tests.storage.conftest import s3_server as s3_server


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def space_of(place: object) -> SearchSpace:
    return parse_space(f"task: {{data: '{place}', image: {{size: [9, 8]}}}}\nspace: {{}}")


def launched(folder: Path, space: SearchSpace, found: Source) -> RunFolder:
    """A run that was launched with these data."""
    run = RunFolder(folder)
    folder.mkdir()
    write_text(run.space, to_yaml(space))
    Manifest.create(run, space, source.digests(found)).write(run)
    return run


def test_data_may_be_in_a_bucket(s3: str, tmp_path: Path) -> None:
    clips(tmp_path / "clips")
    uri = join(s3, "my clips")
    store = ObjectStore(uri, pytest.fail)
    for path in (tmp_path / "clips").iterdir():
        store.write(path.name, path.read_bytes())
    found = source.open_source(space_of(uri).task)
    run = launched(tmp_path / "run", space_of(uri), found)
    assert isinstance(found, OwnSource)
    assert found.info.name == "my clips"
    assert found.info.shape == (1, 9, 8)
    assert source.digests(found) == source.digests(
        source.open_source(space_of(tmp_path / "clips").task)
    )
    store.remove("3.png")
    assert source.open_again(run).info == found.info
    with pytest.raises(DataError, match=r"^s3://.* has a problem:\n.*row 5: 3\.png cannot be read"):
        source.open_source(space_of(uri).task)


@pytest.mark.parametrize("named", ["", "s3://bucket/clips"])
def test_another_place_of_the_data_may_be_named(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    """As where the machine that launches has no such folder, or a run moves to another one."""
    space = space_of(named or tmp_path / "gone")
    clips(tmp_path / "clips")
    found = source.open_source(space.task, tmp_path / "clips")
    run = launched(tmp_path / "run", space, found)
    shutil.rmtree(cache)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert source.open_again(run, Path("~/clips")).info == found.info
    shutil.rmtree(cache)
    (tmp_path / "clips" / "3.png").write_bytes((tmp_path / "clips" / "4.png").read_bytes())
    expected = r"the data in .*/clips are not those that the run was launched with, which are not"
    with pytest.raises(InputError, match=expected):
        source.open_again(run, tmp_path / "clips")
