"""The cache of data sets, the summary, and the contact sheet."""

from __future__ import annotations

import multiprocessing
import os
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from crnn_search.data import dataset, images
from crnn_search.data.arrays import SequenceData
from crnn_search.data.contact_sheet import contact_sheet
from crnn_search.data.dataset import open_dataset
from crnn_search.data.images import ImageFormat
from crnn_search.data.read import read, source_files
from crnn_search.data.sequence_list import SPLITS
from crnn_search.data.summary import describe, shared, warnings
from crnn_search.errors import DataError
from tests.data.folders import HEADER, clips, picture, write_metadata


@pytest.fixture
def folder(cache: Path, tmp_path: Path) -> Path:
    clips(tmp_path / "clips")
    return tmp_path / "clips"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of all files that were decoded."""
    names: list[str] = []
    decode = images.read_image

    def read_image(path: Path, **options: Any) -> object:
        names.append(path.name)
        return decode(path, **options)

    monkeypatch.setattr("crnn_search.data.read.read_image", read_image)
    return names


def test_second_reading_starts_from_the_cache(folder: Path, decoded: list[str]) -> None:
    first = read(folder)
    assert len(decoded) == 12
    second = read(folder)
    assert len(decoded) == 12
    assert second.digest == first.digest
    for field in ("images", "indices", "lengths", "targets", "splits", "groups", "names"):
        np.testing.assert_array_equal(getattr(first, field), getattr(second, field))
    assert second.found == first.found


def test_arrays_are_memory_mapped_and_read_only(folder: Path) -> None:
    data = read(folder)
    assert isinstance(data.images, np.memmap)
    for array in (data.images, data.indices, data.targets):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_content_is_verified_only_if_its_files_have_changed(
    cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[str] = []
    digest_of = dataset._file_digest

    def file_digest(path: Path) -> str:
        verified.append(path.name)
        return digest_of(path)

    first = read(folder)
    monkeypatch.setattr(dataset, "_file_digest", file_digest)
    assert read(folder).digest == first.digest
    assert verified == []
    os.utime(first.folder / "images.uint8")
    for _ in range(2):
        assert read(folder).digest == first.digest
    assert verified == ["images.uint8", "arrays.npz"]
    (record,) = (cache / "data").glob("*.verified")
    record.write_bytes(b"\xff")
    open_dataset(first.folder)
    record.unlink()
    record.mkdir()  # cannot be written
    open_dataset(first.folder)
    assert len(verified) == 6


def test_digest_is_of_the_content(cache: Path, folder: Path, tmp_path: Path) -> None:
    first = read(folder)
    clips(tmp_path / "copy")
    assert read(tmp_path / "copy").digest == first.digest
    assert read(folder, image=ImageFormat((9, 9))).digest != first.digest
    assert open_dataset(cache / "data" / first.digest).found == first.found
    assert first.folder == cache / "data" / first.digest


@pytest.mark.parametrize("change", ["image", "metadata", "times"])
def test_changed_source_is_read_again(folder: Path, decoded: list[str], change: str) -> None:
    first = read(folder)
    path = folder / "3.png"
    times = path.stat()
    if change == "metadata":
        write_metadata(folder, HEADER, [*clips(folder)[:-2]])
    elif change == "image":  # of the same size in bytes
        content = path.read_bytes()
        Image.fromarray(picture(3)[::-1].copy()).save(path, pnginfo=None)
        path.write_bytes(path.read_bytes().ljust(len(content), b"\0"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    second = read(folder)
    assert len(decoded) > 12
    assert (second.digest == first.digest) == (change == "times")


@pytest.mark.parametrize("name", ["images.uint8", "arrays.npz", "dataset.json"])
@pytest.mark.parametrize("damage", ["altered", "truncated", "missing"])
def test_damaged_cache_is_written_again(
    folder: Path, decoded: list[str], name: str, damage: str
) -> None:
    first = read(folder)
    path = first.folder / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    with pytest.raises(DataError, match=str(first.folder)):
        open_dataset(first.folder)
    second = read(folder)
    assert len(decoded) == 24
    assert second.digest == first.digest
    assert path.read_bytes() == content


def test_damaged_pointer_is_written_again(cache: Path, folder: Path, decoded: list[str]) -> None:
    first = read(folder)
    (pointer,) = (cache / "data").glob("*.source")
    for text in ("", "..", "nothing", "é"):
        pointer.write_text(text, encoding="utf-8")
        assert read(folder).digest == first.digest
    assert len(decoded) == 60
    assert pointer.read_text() == first.digest


def test_what_an_interrupted_reading_left_is_replaced(cache: Path, folder: Path) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if what == "decoding images":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read(folder, progress=interrupt)
    assert [path.name for path in (cache / "data").iterdir()] == [".new.lock"]
    (cache / "data" / ".new" / "killed").mkdir(parents=True)
    data = read(folder)
    assert {path.name for path in data.folder.iterdir()} == {
        "images.uint8", "arrays.npz", "dataset.json"
    }  # fmt: skip


def test_cache_that_cannot_be_written_is_refused(
    cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset, "_write_images", full)
    expected = (
        r"cannot write the cache, .*/cache/data: No space left on device; make room, or name "
        r"another folder with CRNN_SEARCH_CACHE"
    )
    with pytest.raises(DataError, match=expected):
        read(folder)


def test_progress_is_reported(folder: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    read(folder, progress=lambda what, done, total: steps.append((what, done, total)))
    assert steps == [("checking images", 12, 12), ("decoding images", 12, 12)]


def test_files_of_a_source(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "notes.txt").touch()
    (folder / "sub").mkdir()
    (folder / "11.png").rename(folder / "sub" / "11.png")
    rows = [[*row] for row in clips(folder)]
    rows[11][0] = "sub/11.png"
    write_metadata(folder, HEADER, rows)
    names = [f"clips/{name}" for name in ("metadata.csv", *(str(row[0]) for row in rows))]
    monkeypatch.chdir(folder)
    for place in (folder, Path(), Path("sub/..")):
        assert source_files(place) == {name: folder.parent / name for name in names}
    np.savez(folder / "a.npz", images=[])
    assert source_files(Path("a.npz")) == {"a.npz": folder / "a.npz"}


def test_files_of_what_is_no_data_set_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"data must be a folder with metadata\.csv, or an \.npz"):
        source_files(folder / "0.png")
    with pytest.raises(DataError, match=r"none\.npz cannot be read: No such file"):
        source_files(folder / "none.npz")
    (folder / "3.png").unlink()
    with pytest.raises(DataError, match=r"clips has a problem:\n.*, row 5: 3\.png cannot be read"):
        source_files(folder)


def read_digest(folder: Path) -> str:
    return read(folder).digest


def test_processes_that_read_at_once_are_safe(cache: Path, folder: Path) -> None:
    """Also while the cache is damaged, again and again."""
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        digests = set()
        for _ in range(10):
            digests.update(pool.map(read_digest, [folder] * 6, chunksize=1))
            (cache / "data" / next(iter(digests)) / "images.uint8").write_bytes(b"damaged")
    assert len(digests) == 1
    assert not (cache / "data" / ".new").exists()


def test_table_of_some_sequences(cache: Path, tmp_path: Path) -> None:
    rows = clips(tmp_path / "clips", sequences=9, length=1)
    rows = [row for number, row in enumerate(rows) for _ in range(number % 3 + 1)]
    write_metadata(tmp_path / "clips", HEADER, rows)
    data = read(tmp_path / "clips")
    chosen = np.array([5, 0, 4])
    assert data.table(chosen).tolist() == [[5, 5, 5], [0, 0, 0], [4, 4, 0]]
    every = np.concatenate([data.rows(split) for split in ("train", "validation", "test")])
    assert sorted(every.tolist()) == list(range(9))
    assert data.rows("validation", "train").tolist() == sorted(data.rows("train", "validation"))
    assert data.table(data.rows()).shape == (0, 0)


def test_what_several_splits_share_is_counted(cache: Path, tmp_path: Path) -> None:
    rows = clips(tmp_path / "clips", sequences=6, length=2)
    splits = ["train"] * 8 + ["validation"] * 2 + ["test"] * 2
    for number in (8, 9):  # a sequence of validation has the images of sequence 0
        Image.fromarray(picture(number - 8)).save(tmp_path / "clips" / f"{number}.png")
    Image.fromarray(picture(3)).save(tmp_path / "clips" / "11.png")
    named = [[*row, split] for row, split in zip(rows, splits, strict=True)]
    write_metadata(tmp_path / "clips", (*HEADER, "split"), named)
    data = read(tmp_path / "clips")
    assert shared(data) == (3, 1)
    assert warnings(data) == [
        "3 identical images are in more than one split: scores may be too good",
        "1 sequence is in more than one split: scores may be too good",
    ]
    assert describe(data) == [
        ("sequences", "6"),
        ("images", "12, 9 of them distinct"),
        ("lengths", "2 to 2, median 2"),
        ("size", "8 × 8"),
        ("channels", "1, grey"),
        ("count", "0 to 5, mean 2.5 ± 1.708"),
        ("splits", "4 train, 1 validation, 1 test; as given"),
    ]


@pytest.mark.hypothesis
@given(
    sequences=st.lists(
        st.tuples(st.sampled_from(SPLITS), st.lists(st.integers(0, 9), min_size=1, max_size=4)),
        max_size=12,
    ).map(
        lambda drawn: [("train", [0]), ("train", [1]), ("validation", [2]), ("test", [3]), *drawn]
    ),
    is_folder=st.booleans(),
)
def test_images_that_only_test_sequences_have_come_last(
    tmp_path_factory: pytest.TempPathFactory,
    sequences: list[tuple[str, list[int]]],
    is_folder: bool,
) -> None:
    place = tmp_path_factory.mktemp("clips")
    targets = np.arange(len(sequences))
    splits = [split for split, _ in sequences]
    lengths = [len(members) for _, members in sequences]
    if is_folder:
        rows = [
            (f"{image}.png", number, number, split)
            for number, (split, members) in enumerate(sequences)
            for image in members
        ]
        write_metadata(place, (*HEADER, "split"), rows)
        for image in range(10):
            Image.fromarray(picture(image)).save(place / f"{image}.png")
    padded = [[picture(image) for image in (members * 4)[:4]] for _, members in sequences]
    data = place if is_folder else SequenceData(np.array(padded), lengths, targets, splits)
    found = read(data)
    for number, (_, members) in enumerate(sequences):
        again = found.images[found.table(np.array([number]))[0], 0]
        np.testing.assert_array_equal(again, [picture(image) for image in members])
    used = {image for split, members in sequences for image in members if split != "test"}
    first = found.images[: len(used), 0]
    assert {image.tobytes() for image in first} == {picture(image).tobytes() for image in used}
    assert found.table(found.rows("train", "validation")).max() == len(used) - 1


@pytest.mark.parametrize("channels", [1, 3])
def test_contact_sheet_shows_a_dozen_sequences(cache: Path, tmp_path: Path, channels: int) -> None:
    clips(tmp_path / "clips", sequences=30, length=15)
    data = read(tmp_path / "clips", image=ImageFormat((20, 30), channels))
    with Image.open(BytesIO(contact_sheet(data))) as sheet:
        assert sheet.size == (872, 1088)
    clips(tmp_path / "few", sequences=4, length=1)
    with Image.open(BytesIO(contact_sheet(read(tmp_path / "few")))) as sheet:
        assert sheet.size == (872, 278)
