"""Data sets in an object store: folders and `.npz` files, read once, and each refusal."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from crnn_search.data import remote
from crnn_search.data.dataset import Dataset
from crnn_search.data.read import read
from crnn_search.errors import DataError, InputError
from crnn_search.storage.location import join
from crnn_search.storage.object_store import ObjectStore
from tests.data.folders import HEADER, clips, write_metadata
from tests.storage.conftest import s3 as s3
from tests.storage.conftest import s3_server as s3_server

Requests = list[str]


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Requests:
    """The names of all objects whose content was asked for."""
    names: Requests = []
    read_part = ObjectStore.read_part

    def recorded(store: ObjectStore, name: str, start: int, length: int) -> bytes:
        names.append(name)
        return read_part(store, name, start, length)

    monkeypatch.setattr(ObjectStore, "read_part", recorded)
    return names


@pytest.fixture
def folder(cache: Path, tmp_path: Path) -> Path:
    """Six sequences; one of their images is in a folder, and there are other files."""
    rows = clips(tmp_path / "clips")
    (tmp_path / "clips" / "sub").mkdir()
    (tmp_path / "clips" / "7.png").rename(tmp_path / "clips" / "sub" / "7.png")
    rows[7][0] = "./sub//7.png"
    write_metadata(tmp_path / "clips", HEADER, rows)
    (tmp_path / "clips" / "notes.txt").write_text("not needed")
    return tmp_path / "clips"


def upload(folder: Path, uri: str) -> ObjectStore:
    store = ObjectStore(uri, pytest.fail)
    for path in folder.rglob("*"):
        if path.is_file():
            store.write(path.relative_to(folder).as_posix(), path.read_bytes())
    return store


def assert_same(found: Dataset, expected: Dataset) -> None:
    assert found.digest == expected.digest
    np.testing.assert_array_equal(found.images, expected.images)


def test_folder_is_read_and_is_in_the_cache_the_second_time(
    s3: str, folder: Path, cache: Path, requests: Requests
) -> None:
    uri = join(s3, "clips")
    upload(folder, uri)
    steps: list[tuple[str, int, int]] = []
    found = read(uri, progress=lambda *step: steps.append(step))
    assert sorted(requests) == sorted(
        ["metadata.csv", "sub/7.png", *(f"{n}.png" for n in range(12) if n != 7)]
    )
    assert steps[0] == ("downloading", 1, 1)
    assert steps[1:13] == [("downloading", done, 12) for done in range(1, 13)]
    assert steps[-1] == ("decoding images", 12, 12)
    assert not (cache / "data" / ".download").exists()
    again = read(uri)
    assert len(requests) == 13
    assert_same(again, found)
    assert_same(found, read(folder))


def test_folder_that_has_changed_is_read_again(s3: str, folder: Path, requests: Requests) -> None:
    uri = join(s3, "clips")
    store = upload(folder, uri)
    first = read(uri)
    store.write("3.png", (folder / "4.png").read_bytes())
    assert read(uri).digest != first.digest
    assert len(requests) == 26


def test_target_and_image_format_are_part_of_the_state(
    s3: str, folder: Path, requests: Requests
) -> None:
    rows = [[*row, -int(str(row[2]))] for row in clips(folder)]
    write_metadata(folder, (*HEADER, "weight"), rows)
    uri = join(s3, "clips")
    upload(folder, uri)
    assert read(uri, target="count").targets.tolist() == [0, 1, 2, 3, 4, 5]
    assert read(uri, target="weight").targets.tolist() == [0, -1, -2, -3, -4, -5]
    with pytest.raises(DataError, match=r"^s3://.* has a problem:\n.*has 2 columns that may be"):
        read(uri)


@pytest.mark.parametrize("part", [100, 8 * 2**20])
def test_npz_file_is_read(
    s3: str, folder: Path, requests: Requests, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    monkeypatch.setattr(remote, "PART", part)
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 10), dtype=np.uint8)
    np.savez(folder / "a.npz", images=images, targets=np.arange(6))
    size = (folder / "a.npz").stat().st_size
    store = ObjectStore(join(s3, "clips"), pytest.fail)
    store.write("a.npz", (folder / "a.npz").read_bytes())
    store.write("b.npz", b"another one")
    found = read(join(s3, "clips", "a.npz"))
    assert_same(found, read(folder / "a.npz"))
    assert requests == ["a.npz"] * -(-size // part)
    read(join(s3, "clips", "a.npz"))
    assert len(requests) == -(-size // part)


def test_problems_name_the_uri(s3: str, folder: Path, cache: Path) -> None:
    uri = join(s3, "clips")
    store = upload(folder, uri)
    store.remove("3.png")
    with pytest.raises(DataError) as caught:
        read(uri)
    assert str(caught.value) == (
        f"{uri} has a problem:\n"
        "  metadata.csv, row 5: 3.png cannot be read: No such file or directory"
    )
    assert not (cache / "data" / ".download").exists()


def test_files_outside_of_the_folder_are_not_written(s3: str, folder: Path, cache: Path) -> None:
    rows = [["../escaped.png", "s9", 9], ["/escaped.png", "s8", 8], *clips(folder)]
    write_metadata(folder, HEADER, rows)
    store = upload(folder, join(s3, "clips"))
    ObjectStore(s3, pytest.fail).write("escaped.png", b"")
    store.write("escaped.png", b"")
    with pytest.raises(DataError, match=r"row 2: \.\./escaped\.png is not in the folder"):
        read(join(s3, "clips"))
    assert list(cache.rglob("escaped.png")) == []


@pytest.mark.parametrize("name", ["none", "none.npz"])
def test_nothing_at_the_uri_is_refused(s3: str, cache: Path, name: str) -> None:
    expected = r"^nothing is at s3://bucket/runs/none.*; data must be a folder with metadata\.csv"
    with pytest.raises(DataError, match=expected):
        read(join(s3, name))


def test_folder_without_metadata_is_refused(s3: str, cache: Path) -> None:
    ObjectStore(join(s3, "clips"), pytest.fail).write("0.png", b"")
    with pytest.raises(DataError, match=r"clips\?.* has a problem:\n  metadata\.csv: cannot be re"):
        read(join(s3, "clips"))


def test_missing_bucket_is_refused(s3: str, cache: Path) -> None:
    expected = r"^cannot read s3://nobucket/runs.*: there is no bucket 'nobucket'$"
    with pytest.raises(DataError, match=expected):
        read(s3.replace("bucket", "nobucket"))


def test_store_that_does_not_answer_is_refused(
    s3: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "READ_RETRY_FOR_S", 0.0)
    with pytest.raises(DataError, match=r"^cannot read s3://bucket/clips\?.*: "):
        read("s3://bucket/clips?endpoint_override=127.0.0.1:9&scheme=http")


def test_uri_of_no_store_is_refused(cache: Path) -> None:
    with pytest.raises(InputError, match="must be a folder or a URI that starts with s3://"):
        read("http://example.org/clips")
    with pytest.raises(InputError, match="a bucket's name, got 's3:/'"):
        read("s3://a.npz")


def test_full_disk_is_refused(s3: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(folder, join(s3, "clips"))

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "touch", full)
    with pytest.raises(DataError, match=r"^cannot write the cache, .*: No space left on device"):
        read(join(s3, "clips"))
