"""Arrays and `.npz` files: what is read from them, and each refusal with its message."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from crnn_search.data.arrays import SequenceData, read_npz
from crnn_search.data.images import ImageFormat
from crnn_search.data.read import read
from crnn_search.errors import DataError

pytestmark = pytest.mark.usefixtures("cache")

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 10), dtype=np.uint8)
TARGETS = np.arange(6) / 4
LENGTHS = np.array([1, 2, 3, 3, 2, 1])


def test_arrays_are_read(tmp_path: Path) -> None:
    data = read(SequenceData(IMAGES, LENGTHS, TARGETS))
    assert data.images.shape == (12, 1, 8, 10)
    assert data.lengths.tolist() == LENGTHS.tolist()
    assert data.targets.tolist() == TARGETS.tolist()
    np.testing.assert_array_equal(data.images[data.table(np.array([1]))[0], 0], IMAGES[1, :2])


def test_npz_file_is_read_as_the_same_arrays(tmp_path: Path) -> None:
    split = np.array(["train", "train", "train", "validation", "test", "test"])
    group = np.array([0, 0, 1, 2, 3, 3])
    np.savez_compressed(
        tmp_path / "a.npz", images=IMAGES, targets=TARGETS, split=split, group=group
    )
    found = read(tmp_path / "a.npz")
    same = read(SequenceData(IMAGES, None, TARGETS, split, group))
    assert found.digest == same.digest
    assert found.splits.tolist() == [0, 0, 0, 1, 2, 2]
    assert found.groups.tolist() == [0, 0, 1, 2, 3, 3]
    assert found.lengths.tolist() == [3] * 6


def test_lists_are_accepted(tmp_path: Path) -> None:
    data = SequenceData(IMAGES, LENGTHS.tolist(), TARGETS.tolist(), ["train"] * 6, list("abcdef"))
    assert data.sequences().groups == list("abcdef")
    column = np.array(["train"] * 6, object)  # as data frames have it
    assert SequenceData(IMAGES, None, TARGETS, column).sequences().splits == ["train"] * 6


def test_colour_becomes_grey_and_another_size(tmp_path: Path) -> None:
    images = np.repeat(IMAGES[..., None], 3, axis=4)
    data = read(SequenceData(images, None, TARGETS), image=ImageFormat(channels=1))
    np.testing.assert_array_equal(data.images[data.table(np.array([0]))[0], 0], IMAGES[0])
    assert data.found.formats == [[8, 10, 3, 18]]
    data = read(SequenceData(IMAGES, None, TARGETS), image=ImageFormat((16, 20), 3))
    assert data.images.shape[1:] == (3, 16, 20)
    assert data.found.formats == [[8, 10, 1, 18]]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (
            {"images": IMAGES.astype(np.float32)},
            "images: must be uint8 of shape (S, T, H, W) or (S, T, H, W, C), "
            "got float32 of shape (6, 3, 8, 10)",
        ),
        ({"images": IMAGES[0]}, "images: must be uint8 of shape (S, T, H, W) or (S, T, H, W, C)"),
        ({"images": [[1], [2, 3]]}, "images: must be uint8 of shape (S, T, H, W) or"),
        ({"images": IMAGES[:, :0]}, "images: T = 0 images in a sequence; 1 to 1,000 are valid"),
        (
            {"images": np.zeros((6, 1001, 8, 8), np.uint8)},
            "images: T = 1,001 images in a sequence; 1 to 1,000 are valid",
        ),
        ({"images": IMAGES[..., None].repeat(2, 4)}, "images: must have 1 or 3 channels, got C ="),
        ({"targets": TARGETS[:5]}, "targets: must have shape (6,), one value a sequence, got (5,"),
        ({"targets": list("abcdef")}, "targets: must be numbers, got <U1"),
        (
            {"targets": np.where(TARGETS == 1, np.nan, TARGETS)},
            "targets[4]: must be a number, -1e+30 to 1e+30, got nan",
        ),
        ({"lengths": LENGTHS[:, None]}, "lengths: must have shape (6,), one value a sequence"),
        ({"lengths": LENGTHS / 2}, "lengths: must be integers, got float64"),
        ({"lengths": LENGTHS - 1}, "lengths[0]: is an empty sequence; a length must be 1 to 3"),
        ({"lengths": LENGTHS + 1}, "lengths[2]: is 4; a length must be 1 to 3"),
        ({"split": np.arange(6)}, "split: must be texts, got int64"),
        ({"group": TARGETS}, "group: must be texts or integers, got float64"),
    ],
)  # fmt: skip
def test_array_is_refused(changed: dict[str, Any], expected: str) -> None:
    with pytest.raises(DataError) as caught:
        SequenceData(**({"images": IMAGES, "lengths": LENGTHS, "targets": TARGETS} | changed))
    text = str(caught.value)
    assert text.startswith("SequenceData has ")
    assert f"\n  {expected}" in text


@pytest.mark.parametrize(
    ("split", "group", "expected"),
    [
        (["train"] * 4 + ["test"] * 2, None, "no sequence is in the split validation; fill it"),
        (["train"] * 5 + ["Test"], None, "split[5]: split must be one of train, validation, test, "
         "got 'Test'; did you mean test?"),
        (["train", "validation", "test"] * 2, [0, 0, 1, 1, 2, 2], "split[1]: the group '0' is in "
         "validation here and in train at split[0]; a group must be in one split"),
        (None, [0, 0, 0, 1, 1, 1], "has 2 groups of sequences; 3 or more can be split"),
    ],
)  # fmt: skip
def test_splits_are_refused(split: Any, group: Any, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        read(SequenceData(IMAGES, LENGTHS, TARGETS, split, group, name="my clips"))
    assert str(caught.value).startswith("my clips has ")
    assert expected in str(caught.value)


def test_images_of_invalid_size_are_refused() -> None:
    data = SequenceData(IMAGES[..., :7], LENGTHS, TARGETS)
    expected = (
        r"images are 8 × 7, but 8 × 8 to 256 × 256 are valid; resize them with image: "
        r"\{size: \[rows, columns\]\} in the space, or with --size in data check"
    )
    with pytest.raises(DataError, match=expected):
        read(data)
    assert read(data, image=ImageFormat((8, 8))).images.shape[1:] == (1, 8, 8)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (
            {"images": None},
            "has no array 'images' (its arrays: targets)",
        ),
        (
            {"length": LENGTHS},
            "has an unknown array 'length'; did you mean lengths? "
            "(valid names: images, targets, lengths, split, group)",
        ),
        (
            {"group": np.array([{}] * 6, object)},
            "holds Python objects, which are never loaded; save plain arrays",
        ),
        ({"targets": TARGETS[:3]}, "targets: must have shape (6,), one value a sequence, got (3,)"),
    ],
)
def test_npz_is_refused(tmp_path: Path, changed: dict[str, Any], expected: str) -> None:
    content: dict[str, Any] = {"images": IMAGES, "targets": TARGETS} | changed
    path = tmp_path / "a.npz"
    np.savez(path, **{name: value for name, value in content.items() if value is not None})
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value) == f"{path} has a problem:\n  {expected}"


@pytest.mark.parametrize("size", [0, 40, 1000, -40])
def test_truncated_npz_is_refused(tmp_path: Path, size: int) -> None:
    np.savez(tmp_path / "a.npz", images=IMAGES, targets=TARGETS)
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(content[:size])
    with pytest.raises(DataError, match=r"a\.npz has a problem:\n  cannot be read as an \.npz"):
        read(tmp_path / "a.npz")


def test_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", IMAGES)
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    expected = r"a\.npz has a problem:\n  cannot be read as an \.npz file: it is no zip file"
    with pytest.raises(DataError, match=expected):
        read(tmp_path / "a.npz")


def test_npz_that_does_not_fit_into_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "a.npz", images=IMAGES, targets=TARGETS)

    def too_large(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 38.1 GiB for an array")

    monkeypatch.setattr(np, "load", too_large)
    expected = (
        r"a\.npz has a problem:\n  is read into memory whole, which does not hold it: Unable to "
        r"allocate 38\.1 GiB for an array; use a folder of images with metadata\.csv$"
    )
    with pytest.raises(DataError, match=expected):
        read(tmp_path / "a.npz")


@pytest.mark.hypothesis
@given(position=st.integers(0, 2000), value=st.integers(0, 255))
def test_altered_npz_is_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    path = tmp_path_factory.mktemp("altered") / "a.npz"
    np.savez(path, images=IMAGES, targets=TARGETS, lengths=LENGTHS)
    content = bytearray(path.read_bytes())
    content[position % len(content)] = value
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        read_npz(path)


def test_missing_npz_and_a_target_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.npz cannot be read: No such file or directory"):
        read(tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"target names a column of metadata\.csv, got 'sum'"):
        read(SequenceData(IMAGES, None, TARGETS), target="sum")
    np.savez(tmp_path / "b.npz", images=IMAGES, targets=TARGETS)
    with pytest.raises(DataError, match=r"target names a column of metadata\.csv, got 'sum'"):
        read(tmp_path / "b.npz", target="sum")


@pytest.mark.hypothesis
@given(
    images=st.tuples(
        st.integers(4, 12), st.integers(1, 5), st.integers(8, 12), st.integers(8, 12)
    ).flatmap(lambda shape: arrays(np.uint8, st.sampled_from([shape, (*shape, 1), (*shape, 3)]))),
    data=st.data(),
)
def test_npz_round_trip(
    tmp_path_factory: pytest.TempPathFactory, images: np.ndarray[Any, Any], data: st.DataObject
) -> None:
    count, steps = images.shape[:2]
    dtype = data.draw(st.sampled_from([np.float32, np.float64, np.int16, np.uint8]))
    targets = np.array(
        data.draw(st.lists(st.integers(0, 99), min_size=count, max_size=count, unique=True)), dtype
    )
    lengths = data.draw(arrays(np.int32, count, elements=st.integers(1, steps)))
    path = tmp_path_factory.mktemp("arrays") / "a.npz"
    np.savez(path, images=images, targets=targets, lengths=lengths)
    found = read(path)
    assert found.targets.tolist() == targets.tolist()
    assert found.lengths.tolist() == lengths.tolist()
    for row, length in enumerate(lengths):
        expected = images[row, :length]
        frames = found.images[found.table(np.array([row]))[0]]
        again = frames[:, 0] if images.ndim == 4 else np.moveaxis(frames, 1, 3)
        np.testing.assert_array_equal(again, expected)
    assert len({image.tobytes() for image in found.images}) == len(found.images)


def test_arrays_without_targets_cannot_be_trained_on() -> None:
    with pytest.raises(DataError, match=r"targets: must be a number, .* each sequence, got none"):
        read(SequenceData(IMAGES, None, None))
