"""Sequences to predict or to evaluate: both formats, without splits, with and without targets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crnn_search.data.arrays import SequenceData
from crnn_search.data.mnist_sums import MnistSource
from crnn_search.data.sequence_files import Place, open_sequences
from crnn_search.data.task_info import TaskInfo
from crnn_search.errors import DataError
from crnn_search.hyperparameters import ImageShape
from crnn_search.storage.location import join
from tests.data.folders import HEADER, clips, picture, write_metadata
from tests.data.test_remote import upload
from tests.storage.conftest import s3 as s3
from tests.storage.conftest import s3_server as s3_server

OWN = TaskInfo("clips", "c0ffee/drop", "count", ImageShape(1, 8, 8), 6)
SUMS = MnistSource(max_digits=8).info


def message(place: Place, task: TaskInfo = OWN, **options: object) -> str:
    with (
        pytest.raises(DataError) as caught,
        open_sequences(place, task, **options),  # type: ignore[arg-type]
    ):
        pass
    return str(caught.value)


@pytest.mark.parametrize("place", [".", "metadata.csv"])
def test_a_folder_of_one_sequence_needs_no_splits(tmp_path: Path, place: str) -> None:
    clips(tmp_path, sequences=1, length=3)
    with open_sequences(tmp_path / place, OWN) as found:
        assert found.files == [[tmp_path / f"{number}.png" for number in range(3)]]
        assert (found.target, found.arrays, found.found.splits) == ("count", None, None)
        assert found.targets is not None
        assert found.targets.tolist() == [0.0]
        assert found.found.lengths.tolist() == [3]


def test_files_are_those_of_each_sequence_in_order(tmp_path: Path) -> None:
    """Rows of a sequence may be apart, and a file in more than one sequence."""
    clips(tmp_path, sequences=2)
    rows = [["1.png", "b", 5, 2], ["0.png", "a", 3, 1], ["0.png", "b", 5, 1]]
    write_metadata(tmp_path, (*HEADER, "position"), rows)
    with open_sequences(tmp_path, OWN) as found:
        names = [[path.name for path in files] for files in found.files or []]
        assert dict(zip(found.found.names, names, strict=True)) == {
            "b": ["0.png", "1.png"], "a": ["0.png"],
        }  # fmt: skip


def test_a_split_of_any_name_is_kept(tmp_path: Path) -> None:
    rows = clips(tmp_path, length=1)
    named = [[*row, "holdout" if row[2] else ""] for row in rows]
    write_metadata(tmp_path, (*HEADER, "split"), named)
    with open_sequences(tmp_path, OWN) as found:
        assert found.found.splits == ["", *["holdout"] * 5]


def test_the_usual_target_is_taken_of_several(tmp_path: Path) -> None:
    rows = [[*row, 7] for row in clips(tmp_path)]
    write_metadata(tmp_path, (*HEADER, "weight"), rows)
    for options, name, value in (({}, "count", 1.0), ({"target": "weight"}, "weight", 7.0)):
        with open_sequences(tmp_path, OWN, **options) as found:  # type: ignore[arg-type]
            assert (found.target, found.found.targets[1]) == (name, value)
    other = replace(OWN, target="height")
    assert "2 columns that may be the target; name one as `target`" in message(tmp_path, other)
    assert "has no target column 'heigt'" in message(tmp_path, target="heigt")


@pytest.mark.parametrize("values", [None, "", 4])
def test_a_target_may_be_missing_where_sequences_are_predicted(
    tmp_path: Path, values: int | str | None
) -> None:
    rows = clips(tmp_path)
    columns, cells = (HEADER, [values]) if values is not None else (HEADER[:2], [])
    write_metadata(tmp_path, columns, [[*row[:2], *cells] for row in rows])
    with open_sequences(tmp_path, OWN, labelled=False) as found:
        assert len(found) == 6
        assert (found.targets is None) == (values != 4)
    if values != 4:
        expected = "count must be a number" if values == "" else "0 columns that may be the target"
        assert expected in message(tmp_path)


def test_other_columns_are_no_target_of_unlabelled_sequences(tmp_path: Path) -> None:
    rows = clips(tmp_path)
    write_metadata(tmp_path, (*HEADER[:2], "camera"), [[*row[:2], "left"] for row in rows])
    with open_sequences(tmp_path, OWN, labelled=False) as found:
        assert found.targets is None
    assert "camera must be a number" in message(tmp_path)


def test_an_npz_file(tmp_path: Path) -> None:
    images = np.stack([[picture(2 * row + step) for step in range(2)] for row in range(3)])
    path = tmp_path / "a.npz"
    np.savez(path, images=images, targets=[1.5, 2.5, 3.5], lengths=[2, 1, 2])
    with open_sequences(path, OWN) as found:
        assert found.files is None
        pixels = found.pixels(np.array([1, 2]), OWN.shape)
    assert pixels.shape == (2, 2, 1, 8, 8)
    np.testing.assert_array_equal(pixels[1, :, 0], images[2])
    np.testing.assert_array_equal(pixels[0, 0, 0], images[1, 0])
    assert not pixels[0, 1].any(), "padding"
    np.savez(path, images=images)
    with open_sequences(path, OWN, labelled=False) as found:
        assert (found.targets, len(found)) == (None, 3)
    assert "has no array 'targets'" in message(path)


def test_arrays_are_brought_into_the_shape_of_a_model() -> None:
    grey = np.full((1, 1, 16, 16), 200, np.uint8)
    with open_sequences(SequenceData(grey, None, [1]), OWN) as found:
        pixels = found.pixels(np.array([0]), ImageShape(3, 8, 10))
    assert pixels.shape == (1, 1, 3, 8, 10)
    assert (pixels == 200).all()


@pytest.mark.parametrize(
    ("shape", "got"),
    [((28, 28, 3), "28 × 28 with 3 channels"), ((20, 20), "20 × 20 with 1 channels")],
)
def test_a_model_of_digits_takes_arrays_as_they_are_or_not(
    shape: tuple[int, ...], got: str
) -> None:
    data = SequenceData(np.zeros((1, 2, *shape), np.uint8), None, [1])
    text = message(data, SUMS)
    assert "must be 28 × 28 in grey, one digit each, white on black" in text
    assert got in text
    with open_sequences(SequenceData(np.zeros((1, 2, 28, 28), np.uint8), None, [1]), SUMS) as some:
        assert some.pixels(np.array([0]), SUMS.shape).shape == (1, 2, 1, 28, 28)


def test_what_is_refused(tmp_path: Path) -> None:
    empty = SequenceData(np.zeros((0, 2, 8, 8), np.uint8), None, np.zeros(0))
    assert "holds no sequence; one at least is needed" in message(empty)
    unlabelled = SequenceData(np.zeros((1, 2, 8, 8), np.uint8), None, None)
    assert "targets: are missing" in message(unlabelled)
    assert "names a column of metadata.csv" in message(unlabelled, target="count")
    assert "gone.npz cannot be read: No such file" in message(tmp_path / "gone.npz")
    (tmp_path / "a.txt").write_text("")
    assert f"an .npz file, got {tmp_path / 'a.txt'}" in message(tmp_path / "a.txt")
    assert "metadata.csv: cannot be read" in message(tmp_path)
    clips(tmp_path)
    (tmp_path / "3.png").unlink()
    assert "row 5: 3.png cannot be read: No such file" in message(tmp_path)


def test_sequences_of_an_object_store_are_copied_for_the_block(s3: str, tmp_path: Path) -> None:
    clips(tmp_path / "clips", sequences=2)
    upload(tmp_path / "clips", join(s3, "clips"))
    with open_sequences(join(s3, "clips"), OWN) as found:
        assert found.files is not None
        paths = [path for files in found.files for path in files]
        assert all(path.is_file() for path in paths)
        assert (found.target, len(paths)) == ("count", 4)
    assert not any(path.exists() for path in paths)
    assert "nothing is at" in message(join(s3, "gone.npz"))
