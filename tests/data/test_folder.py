"""Folders of images: what is read from them, and each refusal with its message."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from crnn_search.data.read import read
from crnn_search.data.summary import describe, warnings
from crnn_search.errors import DataError
from tests.data.folders import HEADER, clips, picture, write_metadata

pytestmark = pytest.mark.usefixtures("cache")


def message(folder: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_sequences_are_in_the_order_of_rows(tmp_path: Path) -> None:
    clips(tmp_path / "clips")
    data = read(tmp_path / "clips")
    assert data.images.shape == (12, 1, 8, 8)
    assert data.names.tolist() == [f"s{number}" for number in range(6)]
    assert data.targets.tolist() == [0, 1, 2, 3, 4, 5]
    assert data.lengths.tolist() == [2] * 6
    for number in range(12):
        np.testing.assert_array_equal(data.images[data.indices[number], 0], picture(number))


def test_rows_of_a_sequence_may_be_apart_and_are_sorted_by_position(tmp_path: Path) -> None:
    rows = clips(tmp_path / "clips")
    rows = [[*row, 10 - number] for number, row in enumerate(rows)]
    write_metadata(tmp_path / "clips", (*HEADER, "position"), [*rows[::2], *rows[1::2]])
    data = read(tmp_path / "clips")
    first = data.images[data.table(np.array([0]))[0], 0]
    np.testing.assert_array_equal(first, [picture(1), picture(0)])


def test_given_splits_and_groups_are_kept(tmp_path: Path) -> None:
    rows = clips(tmp_path / "clips", length=1)
    splits = ["train", "train", "validation", "validation", "test", "test"]
    named = [[*row, split, split[:2]] for row, split in zip(rows, splits, strict=True)]
    write_metadata(tmp_path / "clips", (*HEADER, "split", "group"), named)
    data = read(tmp_path / "clips")
    assert data.splits.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.groups.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.found.split_by == "given"
    assert ("sequences", "6 in 3 groups") in describe(data)


def test_one_file_in_several_sequences_is_one_image(tmp_path: Path) -> None:
    rows = clips(tmp_path / "clips", sequences=4, length=1)
    shared = [["0.png", f"again {row[1]}", 7] for row in rows]
    write_metadata(tmp_path / "clips", HEADER, [*rows, *shared])
    data = read(tmp_path / "clips")
    assert len(data) == 8
    assert len(data.indices) == 8
    assert len(data.images) == 4


def test_target_column_is_chosen_among_several(tmp_path: Path) -> None:
    rows = [[*row, f"caption {row[1]}", 2] for row in clips(tmp_path / "clips")]
    write_metadata(tmp_path / "clips", (*HEADER, "caption", "weight"), rows)
    assert read(tmp_path / "clips", target="count").targets.tolist() == [0, 1, 2, 3, 4, 5]
    assert "has 3 columns that may be the target; name one as `target`" in message(
        tmp_path / "clips"
    )
    assert "has no target column 'cuont'; did you mean count?" in message(
        tmp_path / "clips", target="cuont"
    )


def test_spreadsheet_with_byte_order_mark_blank_lines_and_spaces(tmp_path: Path) -> None:
    clips(tmp_path / "clips")
    path = tmp_path / "clips" / "metadata.csv"
    text = path.read_text().replace(",", ", ")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n\r\n")
    assert read(tmp_path / "clips").targets.tolist() == [0, 1, 2, 3, 4, 5]


def edited(folder: Path, row: int, values: dict[int, object]) -> Path:
    """`clips` with some values of one row, as an editor counts them, replaced."""
    rows = clips(folder)
    for column, value in values.items():
        rows[row - 2][column] = value
    write_metadata(folder, HEADER, rows)
    return folder


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({0: "none.png"}, "row 4: none.png cannot be read: No such file or directory"),
        ({0: "/etc/hostname"}, "row 4: /etc/hostname is not in the folder; file_name is relative"),
        ({0: "a/../../x.png"}, "row 4: a/../../x.png is not in the folder; file_name is relative"),
        ({0: "."}, "row 4: . is not a file"),
        ({0: "a\0b"}, "row 4: a\0b cannot be read: embedded null byte"),
        ({0: ""}, "row 4: file_name is empty"),
        ({0: "metadata.csv"}, "row 4: metadata.csv cannot be decoded: cannot identify image file"),
        ({1: ""}, "row 4: sequence is empty"),
        ({2: 5}, "row 5: count is '1', but '5' in metadata.csv, row 4; it must be the same in"),
    ],
)
def test_row_is_refused(tmp_path: Path, values: dict[int, object], expected: str) -> None:
    found = message(edited(tmp_path / "clips", 4, values))
    assert found.startswith(f"{tmp_path / 'clips'} has a problem:\n  metadata.csv, {expected}")


@pytest.mark.parametrize("text", ["two", "", "nan", "inf", "1e31", "1_000"])
def test_target_that_is_no_number_is_refused(tmp_path: Path, text: str) -> None:
    rows = clips(tmp_path / "clips", length=1)
    rows[2][2] = text
    write_metadata(tmp_path / "clips", HEADER, rows)
    assert message(tmp_path / "clips").endswith(
        f"metadata.csv, row 4: count must be a number, -1e+30 to 1e+30, got {text!r}"
    )


def test_sequence_in_two_splits_or_groups_is_refused(tmp_path: Path) -> None:
    rows = clips(tmp_path / "clips")
    splits = ["train"] * 8 + ["validation", "validation", "test", "train"]
    named = [[*row, split, split] for row, split in zip(rows, splits, strict=True)]
    write_metadata(tmp_path / "clips", (*HEADER, "split", "group"), named)
    assert message(tmp_path / "clips") == (
        f"{tmp_path / 'clips'} has 2 problems:\n"
        "  metadata.csv, row 13: split is 'train', but 'test' in metadata.csv, row 12; it must be "
        "the same in all rows of the sequence 's5'\n"
        "  metadata.csv, row 13: group is 'train', but 'test' in metadata.csv, row 12; it must be "
        "the same in all rows of the sequence 's5'"
    )


def test_group_in_two_splits_is_refused(tmp_path: Path) -> None:
    rows = clips(tmp_path / "clips", sequences=3, length=1)
    splits = ["train", "validation", "test"]
    named = [[*row, split, "camera 1"] for row, split in zip(rows, splits, strict=True)]
    write_metadata(tmp_path / "clips", (*HEADER, "split", "group"), named)
    assert (
        "metadata.csv, row 3: the group 'camera 1' is in validation here and in train at "
        "metadata.csv, row 2; a group must be in one split" in message(tmp_path / "clips")
    )


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ("train", "no sequence is in the split test; fill it, or give no splits to draw them"),
        ("tset", "metadata.csv, row 4: split must be one of train, validation, test, got 'tset'; "
         "did you mean test?"),
        ("", "metadata.csv, row 4: split must be one of train, validation, test, got ''"),
    ],
)  # fmt: skip
def test_split_is_refused(tmp_path: Path, last: str, expected: str) -> None:
    rows = clips(tmp_path / "clips", sequences=3, length=1)
    splits = ["train", "validation", last]
    named = [[*row, split] for row, split in zip(rows, splits, strict=True)]
    write_metadata(tmp_path / "clips", (*HEADER, "split"), named)
    assert expected in message(tmp_path / "clips").splitlines()[1].strip()


def test_group_that_is_empty_in_some_rows_is_refused(tmp_path: Path) -> None:
    rows = clips(tmp_path / "clips", sequences=4, length=1)
    named = [[*row, group] for row, group in zip(rows, ["a", "b", "", "c"], strict=True)]
    write_metadata(tmp_path / "clips", (*HEADER, "group"), named)
    expected = "metadata.csv, row 4: group is empty, but not in all rows"
    assert message(tmp_path / "clips").endswith(expected)


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        (["1", "x"], "metadata.csv, row 3: position must be a number, got 'x'"),
        (["1", "1.0"], "metadata.csv, row 3: position 1.0 is twice in the sequence 's0'"),
    ],
)
def test_position_is_refused(tmp_path: Path, positions: list[str], expected: str) -> None:
    rows = clips(tmp_path / "clips", sequences=3)
    named = [[*row, position] for row, position in zip(rows, positions * 3, strict=True)]
    write_metadata(tmp_path / "clips", (*HEADER, "position"), named)
    assert expected in message(tmp_path / "clips")


def test_sequence_of_more_than_1000_images_is_refused(tmp_path: Path) -> None:
    rows = clips(tmp_path / "clips")
    write_metadata(tmp_path / "clips", HEADER, [*rows, *([["0.png", "s5", 5]] * 999)])
    expected = "metadata.csv, row 12: 's5' has 1,001 images in a sequence; 1 to 1,000 are valid"
    assert message(tmp_path / "clips").endswith(expected)


def test_more_than_ten_problems_are_counted(tmp_path: Path) -> None:
    rows = [[f"{number}.png", number, number] for number in range(1200)]
    write_metadata(tmp_path / "clips", HEADER, rows)
    lines = message(tmp_path / "clips").splitlines()
    assert lines[0] == f"{tmp_path / 'clips'} has 1,200 problems; the first 10:"
    assert len(lines) == 11
    assert lines[10] == "  metadata.csv, row 11: 9.png cannot be read: No such file or directory"


def test_problems_of_all_kinds_are_reported_at_once(tmp_path: Path) -> None:
    rows = clips(tmp_path / "clips")
    rows[0][0], rows[2][1], rows[5][2] = "none.png", "", "many"
    write_metadata(tmp_path / "clips", HEADER, rows)
    text = message(tmp_path / "clips")
    assert text.startswith(f"{tmp_path / 'clips'} has 3 problems:")
    for row in (2, 4, 7):
        assert f"metadata.csv, row {row}: " in text


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (
            "filename,sequence,count",
            "metadata.csv: has no column 'file_name'; did you mean filename? "
            "(its columns: filename, sequence, count)",
        ),
        ("file_name,Sequence,count", "has no column 'sequence'; did you mean Sequence?"),
        ("file_name,sequence,count,count", "metadata.csv: has 2 columns 'count'"),
        ("file_name,sequence", "has 0 columns that may be the target"),
        ("", "has no column 'file_name' (its columns: none)"),
    ],
)
def test_header_is_refused(tmp_path: Path, header: str, expected: str) -> None:
    (tmp_path / "metadata.csv").write_text(header + "\n")
    assert expected in message(tmp_path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"file_name,sequence,count\n", "metadata.csv: has no rows; one row an image is needed"),
        (b"file_name,sequence,count\na.png,1\n", "row 2: has 2 values, but there are 3 columns"),
        (b'file_name,sequence,count\na.png,"1\n', "row 2: is not valid CSV: unexpected end of"),
        (b"file_name,sequence,count\na.png,\xe4,1\n", "row 2: is not UTF-8; save the file with"),
    ],
)
def test_metadata_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "metadata.csv").write_bytes(content)
    assert expected in message(tmp_path)


def test_source_is_refused(tmp_path: Path) -> None:
    assert message(tmp_path) == (
        f"{tmp_path} has a problem:\n"
        "  metadata.csv: cannot be read: No such file or directory; a folder of images needs it"
    )
    nowhere = tmp_path / "nowhere"
    assert message(nowhere) == (
        f"data must be a folder with metadata.csv, or an .npz file, got {nowhere}, which does not "
        "exist"
    )


def test_too_few_sequences_and_constant_target_are_refused(tmp_path: Path) -> None:
    clips(tmp_path / "few", sequences=2)
    assert "has 2 sequences; 3 or more can be split" in message(tmp_path / "few")
    rows = [[*row[:2], 4] for row in clips(tmp_path / "constant")]
    write_metadata(tmp_path / "constant", HEADER, rows)
    assert "the target of each training sequence is 4" in message(tmp_path / "constant")


def test_column_that_is_nearly_an_optional_one_is_noted(tmp_path: Path) -> None:
    rows = [[*row, "train"] for row in clips(tmp_path / "clips")]
    write_metadata(tmp_path / "clips", (*HEADER, "Splits"), rows)
    data = read(tmp_path / "clips", target="count")
    assert warnings(data) == ["the column 'Splits' is not used; did you mean split?"]


names = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1)
GROUPS = ("a", "b, c", 'd"', "e\nf", "g")


@pytest.mark.hypothesis
@given(
    sequences=st.lists(
        st.tuples(
            names,
            st.floats(-1e30, 1e30, allow_nan=False),
            st.lists(st.integers(0, 5), min_size=1, max_size=6),
        ),
        min_size=10,
        max_size=20,
        unique_by=(lambda sequence: sequence[0], lambda sequence: sequence[1]),
    ),
    channels=st.sampled_from([1, 3]),
    size=st.tuples(st.integers(8, 20), st.integers(8, 20)),
    kind=st.sampled_from(["png", "bmp", "tiff"]),
)
def test_folder_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    sequences: list[tuple[str, float, list[int]]],
    channels: int,
    size: tuple[int, int],
    kind: str,
) -> None:
    folder = tmp_path_factory.mktemp("clips")
    rows = [
        [f"{image}.{kind}", name, target, GROUPS[number % 5]]
        for number, (name, target, images) in enumerate(sequences)
        for image in images
    ]
    write_metadata(folder, (*HEADER, "group"), rows)
    for image in range(6):
        Image.fromarray(picture(image, size, channels)).save(folder / f"{image}.{kind}")
    data = read(folder)
    assert data.names.tolist() == [name for name, _, _ in sequences]
    assert data.targets.tolist() == [target for _, target, _ in sequences]
    assert data.lengths.tolist() == [len(images) for _, _, images in sequences]
    assert data.groups.tolist() == [number % 5 for number in range(len(sequences))]
    used = [image for _, _, images in sequences for image in images]
    expected = np.stack([picture(image, size, channels) for image in used])
    found = data.images[data.indices]
    again = found[:, 0] if channels == 1 else np.moveaxis(found, 1, 3)
    np.testing.assert_array_equal(again, expected)
    assert set(data.splits.tolist()) == {0, 1, 2}
