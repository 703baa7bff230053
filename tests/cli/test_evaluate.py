"""evaluate: what it prints and writes, and what it refuses."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crnn_search.data.arrays import SequenceData
from crnn_search.data.own import OwnSource
from crnn_search.data.read import read
from crnn_search.data.task_info import TaskInfo
from crnn_search.storage.cache import CACHE_VARIABLE
from tests.cli.conftest import CommandLine
from tests.cli.test_predict import constant_model
from tests.data.folders import write_metadata
from tests.models.networks import COLOUR, SUMS

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 3, 16, 24, 3), dtype=np.uint8)
LENGTHS = np.array([1, 2, 3] * 4)
TARGETS = np.linspace(0, 11, 12)
OWN = replace(COLOUR, unit="mm", center=5.0, scale=2.0, longest=3)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A model that always predicts 7."""
    return str(constant_model(tmp_path / "m.safetensors", OWN, 7))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "new.npz"
    np.savez(path, images=IMAGES, lengths=LENGTHS, targets=TARGETS)
    return path


def test_what_is_printed(crnn_search: CommandLine, model: str, data: Path) -> None:
    done = crnn_search("evaluate", model, str(data))
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == f"{data}: all 12 sequences, 24 images"
    # RMSE: of 7 less 0, 1 … 11; of 5 less these
    assert lines[1].startswith("  RMSE            3.76 mm  (95 % interval ")
    assert lines[1].endswith(", of other sequences)")
    assert lines[2] == "  MAE             3.17 mm"
    assert lines[3].startswith("  R²              -0.189")
    assert lines[4] == "  guess the mean  3.49 mm  (RMSE, without an image)"
    assert lines[6].split() == ["images", "sequences", "RMSE", "95", "%", "interval", "MAE"]
    assert [line.split()[:2] for line in lines[7:10]] == [["1", "4"], ["2", "4"], ["3", "4"]]


def test_files_and_json(crnn_search: CommandLine, model: str, data: Path, tmp_path: Path) -> None:
    table, plot = tmp_path / "errors.csv", tmp_path / "worst.png"
    done = crnn_search(
        "evaluate", model, str(data), "--json", "--csv", str(table), "--plot", str(plot)
    )
    assert (done.code, done.err) == (0, "")
    figures = json.loads(done.out)
    assert figures["score"]["mae"] == pytest.approx(19 / 6)
    assert figures["task"] == OWN.to_dict()
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [float(row["target"]) for row in rows] == TARGETS.tolist()
    assert {float(row["prediction"]) for row in rows} == {7.0}
    assert rows[3] == {
        "sequence": "3", "images": "1", "target": "3.0", "prediction": "7.0", "error": "4.0",
    }  # fmt: skip
    with Image.open(plot) as sheet:
        assert (sheet.format, sheet.mode) == ("PNG", "RGB")
    printed = crnn_search("evaluate", model, str(data), "--csv", str(table)).out
    assert printed.endswith(f"written: {table}\n")


def test_sums_have_exact_sums_and_two_guesses(crnn_search: CommandLine, tmp_path: Path) -> None:
    model = constant_model(tmp_path / "m.safetensors", SUMS, 7)
    images = np.zeros((4, 2, 28, 28), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, targets=[7, 7, 1, 2], lengths=[1, 2, 1, 2])
    done = crnn_search("evaluate", str(model), str(tmp_path / "a.npz"))
    assert done.code == 0
    for expected in ("  exact sums      50.0 %\n", "  guess the mean  ", "  count only      "):
        assert expected in done.out
    assert "exact sums" in done.out.splitlines()[7]
    one = [line for line in done.out.splitlines() if line.startswith("1 ")]
    assert one[0].split()[-2:] == ["%", "3.03"], "4.454, of 7 and 1"
    assert "50.0 %" in one[0]


def own_model(tmp_path: Path) -> tuple[str, str]:
    """A model, and the place of the data that it was trained on, with splits."""
    place = tmp_path / "clips.npz"
    split = np.array(["train"] * 6 + ["validation"] * 3 + ["test"] * 3)
    np.savez(place, images=IMAGES, lengths=LENGTHS, targets=TARGETS, split=split)
    info: TaskInfo = OwnSource(
        read(SequenceData(IMAGES, LENGTHS, TARGETS, split)), "clips", "mm"
    ).info
    return str(constant_model(tmp_path / "own.safetensors", info, 7)), str(place)


def test_which_sequences_were_evaluated_is_said(crnn_search: CommandLine, tmp_path: Path) -> None:
    model, place = own_model(tmp_path)
    trained = "; the model was trained on this data set"
    for split, words, warned in (
        ([], f"the split test, 3 of 12 sequences{trained}, 6 images", False),
        (["train"], f"the split train, 6 of 12 sequences{trained}, 12 images", True),
        (["all"], f"all 12 sequences (6 train, 3 validation, 3 test){trained}, 24 images", True),
    ):
        done = crnn_search("evaluate", model, place, *(["--split", *split] if split else []))
        assert done.out.splitlines()[0] == f"{place}: {words}"
        assert ("warning: the model was trained on this data set, and" in done.out) == warned


def test_odd_images_are_counted(crnn_search: CommandLine, tmp_path: Path) -> None:
    model = constant_model(tmp_path / "m.safetensors", replace(OWN, longest=2), 7)
    np.savez(tmp_path / "a.npz", images=IMAGES, targets=TARGETS)
    done = crnn_search("evaluate", str(model), str(tmp_path / "a.npz"))
    (warning,) = [line for line in done.out.splitlines() if line.startswith("warning")]
    assert warning.startswith("warning: too_long (12 times): the sequence has 3 images, more than")


def test_a_folder_of_images_of_other_sizes(
    crnn_search: CommandLine, model: str, tmp_path: Path
) -> None:
    for number, size in enumerate(((24, 16), (48, 32), (10, 10))):
        Image.new("L", size).save(tmp_path / f"{number}.png")
    rows = [[f"{number}.png", "a", 1] for number in range(3)]
    write_metadata(tmp_path, ("file_name", "sequence", "growth"), rows)
    done = crnn_search("evaluate", model, str(tmp_path))
    lines = done.out.splitlines()
    assert lines[0] == f"{tmp_path}: 1 sequence, 3 images; target growth"
    assert "(95 % interval missing, of other sequences)" in lines[1]
    assert lines[-1] == (
        "note: 2 images had another size and were resized to 16 × 24 pixels with the Lanczos "
        "filter, proportions not kept"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gone.npz"], "gone.npz cannot be read: No such file"),
        (["gone"], "data must be a folder with metadata.csv, or an .npz file, got gone, which do"),
        (["{data}", "--split", "test"], "--split test needs a column or an array 'split'"),
        (["{data}", "--target", "sum"], "names a column of metadata.csv, got 'sum'"),
        (["{data}", "--csv", "gone/a.csv"], "--csv must be in a folder that exists, got gone/a."),
        (["{data}", "--plot", "gone/a.png"], "--plot must be in a folder that exists, got gone/a."),
        (["mnist", "--data-dir", "."], "--data-dir is for the data 'mnist' of a model of digits"),
    ],
)  # fmt: skip
def test_what_is_refused(
    crnn_search: CommandLine, model: str, data: Path, arguments: list[str], words: str
) -> None:
    done = crnn_search("evaluate", model, *(word.format(data=data) for word in arguments))
    assert (done.code, done.out) == (2, "")
    assert words in done.err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"targets": None}, "has no array 'targets'"),
        ({"targets": np.where(TARGETS > 5, np.nan, 1)}, "targets[6]: must be a number"),
        ({"images": IMAGES[..., :2]}, "must have 1 or 3 channels, got C = 2"),
        ({"images": IMAGES[:0], "targets": TARGETS[:0], "lengths": LENGTHS[:0]}, "no sequence"),
    ],
)
def test_data_that_are_refused(
    crnn_search: CommandLine, model: str, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    values = {"images": IMAGES, "lengths": LENGTHS, "targets": TARGETS} | changes
    kept = {name: value for name, value in values.items() if value is not None}
    np.savez(tmp_path / "bad.npz", **kept)  # type: ignore[arg-type]
    done = crnn_search("evaluate", model, str(tmp_path / "bad.npz"))
    assert (done.code, done.out) == (2, "")
    assert words in done.err


def test_a_model_that_diverged_is_no_wrong_input(
    crnn_search: CommandLine, data: Path, tmp_path: Path
) -> None:
    model = constant_model(tmp_path / "nan.safetensors", OWN, float("nan"))
    done = crnn_search("evaluate", str(model), str(data))
    assert done.code == 1
    assert "predictions must be finite numbers, got 12 that are not" in done.err
