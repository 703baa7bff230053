"""A model on labelled sequences: its figures, which sequences they are of, and each refusal."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import crnn_search
from crnn_search.data import mnist
from crnn_search.data.arrays import SequenceData
from crnn_search.data.digits import MEAN_DIGIT, Digits
from crnn_search.data.own import OwnSource
from crnn_search.data.read import read
from crnn_search.errors import DataError, InputError
from crnn_search.models.model import Model
from crnn_search.pipeline.evaluation import evaluate
from crnn_search.pipeline.evaluation_data import Options
from crnn_search.storage.cache import CACHE_VARIABLE
from tests.data.folders import HEADER, write_metadata
from tests.models.networks import GREY, SPECS, SUMS, write
from tests.small_run import REPOSITORY, write_mnist

OWN = replace(GREY, center=20.0, scale=5.0)
GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (30, 4, 8, 8), dtype=np.uint8)
LENGTHS = GENERATOR.integers(1, 5, 30)
TARGETS = GENERATOR.normal(20, 5, 30)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model of 8 × 8 grey images with random weights."""
    folder = tmp_path_factory.mktemp("models") / "own"
    write(SPECS["embedding"], folder, "onnx", task=OWN)
    return crnn_search.load_model(folder)


@pytest.fixture(scope="module")
def digits_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("models") / "digits"
    write(SPECS["embedding"], folder, "onnx", task=SUMS)
    return crnn_search.load_model(folder)


def arrays(**changes: Any) -> SequenceData:
    values: dict[str, Any] = {"images": IMAGES, "lengths": LENGTHS, "targets": TARGETS}
    return SequenceData(**values | changes)


def write_folder(folder: Path, **columns: Any) -> Path:
    """The sequences of `arrays` as PNG files."""
    rows = []
    folder.mkdir()
    for row, length in enumerate(LENGTHS):
        for step in range(length):
            name = f"{row}-{step}.png"
            Image.fromarray(IMAGES[row, step]).save(folder / name)
            rows.append(
                [name, f"s{row}", TARGETS[row], *(column[row] for column in columns.values())]
            )
    write_metadata(folder, (*HEADER, *columns), rows)
    return folder


def test_figures_by_hand(model: Model) -> None:
    found = crnn_search.evaluate(model, arrays())
    predicted = model.predict(IMAGES, LENGTHS)
    errors = predicted - TARGETS
    score = found["score"]
    assert score["rmse"] == pytest.approx(math.sqrt(np.square(errors).mean()))
    assert score["mae"] == pytest.approx(np.abs(errors).mean())
    assert score["r2"] == pytest.approx(1 - np.square(errors).mean() / TARGETS.var())
    for length in range(1, 5):
        own = errors[length == LENGTHS]
        assert score["sequences_by_length"][str(length)] == len(own)
        assert score["rmse_by_length"][str(length)] == pytest.approx(
            math.sqrt(np.square(own).mean())
        )
    low, high = score["rmse_interval"]
    assert low < score["rmse"] < high
    assert found["baselines"].keys() == {"mean_guess"}
    guess = math.sqrt(np.square(OWN.center - TARGETS).mean())
    assert found["baselines"]["mean_guess"]["rmse"] == pytest.approx(guess), "not of these targets"
    worst = int(np.abs(errors).argmax())
    assert len(found["worst"]) == 24
    assert found["worst"][0]["name"] == str(worst)
    assert found["worst"][0]["prediction"] == pytest.approx(predicted[worst], rel=1e-5)
    assert (found["split"], found["own_data"], found["groups"]) == (None, False, 30)
    assert found["sequences"] == {"found": 30, "evaluated": 30, "by_split": None}
    assert found["warnings"] == []


def assert_close(found: Any, expected: Any) -> None:
    """Figures are equal up to arithmetic."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_close(found[key], value)
    else:
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_both_formats_give_the_same(model: Model, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=IMAGES, lengths=LENGTHS, targets=TARGETS)
    expected = crnn_search.evaluate(model, arrays())
    for place in (tmp_path / "a.npz", write_folder(tmp_path / "clips")):
        found = crnn_search.evaluate(model, place)
        assert found["data"] == str(place)
        assert_close(found["score"], expected["score"])
        assert found["images"] == LENGTHS.sum()


def test_the_order_of_sequences_changes_nothing(model: Model) -> None:
    order = np.random.default_rng(1).permutation(30)
    expected = crnn_search.evaluate(model, arrays())
    other = arrays(images=IMAGES[order], lengths=LENGTHS[order], targets=TARGETS[order])
    found = crnn_search.evaluate(model, other)
    assert_close(found["score"], expected["score"])
    assert_close(found["baselines"], expected["baselines"])
    targets = [[row["target"] for row in one["worst"]] for one in (found, expected)]
    assert targets[0] == targets[1]


@pytest.mark.parametrize("count", [1, 2])
def test_few_sequences(model: Model, count: int) -> None:
    few = arrays(images=IMAGES[:count], lengths=LENGTHS[:count], targets=TARGETS[:count])
    found = evaluate(model, few, Options(picture=True))
    score = found.figures["score"]
    assert score["sequences"] == count
    assert (score["rmse_interval"] is None) == (score["r2"] is None) == (count == 1)
    assert found.picture is not None


def test_intervals_are_of_groups(model: Model) -> None:
    group = np.arange(30) // 10
    found = crnn_search.evaluate(model, arrays(group=group))
    assert found["groups"] == 3
    narrow = crnn_search.evaluate(model, arrays())["score"]["rmse_interval"]
    assert found["score"]["rmse_interval"] != narrow


def test_a_table_and_a_picture_of_the_worst(model: Model, tmp_path: Path) -> None:
    place = write_folder(tmp_path / "clips")
    found = evaluate(model, place, Options(picture=True))
    rows = list(csv.DictReader(io.StringIO(found.table)))
    assert [row["sequence"] for row in rows] == [f"s{number}" for number in range(30)]
    errors = [float(row["prediction"]) - float(row["target"]) for row in rows]
    assert [float(row["error"]) for row in rows] == pytest.approx(errors)
    rmse = math.sqrt(sum(error**2 for error in errors) / 30)
    assert rmse == pytest.approx(found.figures["score"]["rmse"])
    assert found.picture is not None
    with Image.open(io.BytesIO(found.picture)) as sheet:
        assert (sheet.format, sheet.mode) == ("PNG", "L")
        assert sheet.height == 24 * 76 + 4


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Model, dict[str, Any]]:
    """A model of the task of a data set in memory, and the arrays of that."""
    values: dict[str, Any] = {"images": IMAGES, "lengths": LENGTHS, "targets": TARGETS}
    info = OwnSource(read(SequenceData(**values)), "clips", "mm").info
    write(SPECS["embedding"], tmp_path / "model", "onnx", task=info)
    return crnn_search.load_model(tmp_path / "model"), values


@pytest.mark.parametrize("stored", [True, False])
def test_of_the_models_own_data_the_test_split_is_evaluated(
    trained: tuple[Model, dict[str, Any]], tmp_path: Path, stored: bool
) -> None:
    """Its splits were drawn, and are drawn again."""
    model, values = trained
    np.savez(tmp_path / "clips.npz", **values)
    place = tmp_path / "clips.npz" if stored else SequenceData(**values)
    found = crnn_search.evaluate(model, place)
    data = read(SequenceData(**values))
    rows = data.rows("test")
    assert (found["split"], found["own_data"]) == ("test", True)
    assert found["sequences"] == {
        "found": 30, "evaluated": len(rows),
        "by_split": {
            "train": len(data.rows("train")), "validation": len(data.rows("validation")),
            "test": len(rows),
        },
    }  # fmt: skip
    errors = model.predict(IMAGES[rows], LENGTHS[rows]) - TARGETS[rows]
    assert found["score"]["rmse"] == pytest.approx(math.sqrt(np.square(errors).mean()))
    assert not found["warnings"]
    for split in ("all", "train", "validation"):
        (warning,) = crnn_search.evaluate(model, place, split=split)["warnings"]
        assert "the figures are too good; --split test leaves them out" in warning


def test_data_with_the_same_targets_but_other_images_are_others(
    trained: tuple[Model, dict[str, Any]],
) -> None:
    model, values = trained
    found = crnn_search.evaluate(model, SequenceData(**values | {"images": 255 - IMAGES}))
    assert (found["split"], found["own_data"]) == (None, False)
    assert not found["warnings"]
    with pytest.raises(InputError, match=r"--split test needs a column or an array 'split'"):
        crnn_search.evaluate(model, SequenceData(**values | {"images": 255 - IMAGES}), split="test")


def test_a_split_is_chosen_by_its_name(model: Model, tmp_path: Path) -> None:
    place = write_folder(tmp_path / "clips", split=["holdout"] * 10 + [""] * 20)
    found = crnn_search.evaluate(model, place, split="holdout")
    errors = model.predict(IMAGES[:10], LENGTHS[:10]) - TARGETS[:10]
    assert found["score"]["rmse"] == pytest.approx(math.sqrt(np.square(errors).mean()))
    assert found["sequences"]["by_split"] == {"holdout": 10, "": 20}
    assert crnn_search.evaluate(model, place)["sequences"]["evaluated"] == 30
    with pytest.raises(InputError, match=r"--split must be one of all, holdout, got 'holdot'; did"):
        crnn_search.evaluate(model, place, split="holdot")


def test_a_data_sets_images_are_brought_into_the_models_format(
    model: Model, tmp_path: Path
) -> None:
    """Colour becomes grey, and a picture of twice the size is resized."""
    large = np.repeat(np.repeat(IMAGES, 2, axis=2), 2, axis=3)
    colour = np.repeat(large[..., None], 3, axis=-1)
    found = crnn_search.evaluate(model, arrays(images=colour))
    expected = crnn_search.evaluate(model, arrays(images=large))
    assert_close(found["score"], expected["score"])
    assert found["resized"] == expected["resized"] == LENGTHS.sum()
    assert crnn_search.evaluate(model, arrays())["resized"] == 0


def test_sequences_that_are_too_long_and_files_that_are_shared_are_told(
    model: Model, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "clips")
    rows = [["0-0.png", "a", 1.0]] * 9 + [["0-0.png", "b", 2.0], ["1-0.png", "b", 2.0]]
    write_metadata(folder, HEADER, rows)
    found = crnn_search.evaluate(model, folder)
    assert found["input_warnings"]["too_long"]["count"] == 1, "of a is longer than 6"
    assert found["warnings"] == [
        "1 image files are in more than one sequence: intervals may be too narrow"
    ]
    long = SequenceData(np.repeat(IMAGES, 3, axis=1), None, TARGETS)
    assert crnn_search.evaluate(model, long)["input_warnings"]["too_long"]["count"] == 30


def test_pictures_of_digits(digits_model: Model, tmp_path: Path) -> None:
    """They are prepared as for `predict`; in one of them is nothing to read."""
    folder = tmp_path / "digits"
    shutil.copytree(Path(REPOSITORY) / "examples" / "digits", folder)
    Image.new("L", (40, 40), "white").save(folder / "blank.png")
    with (folder / "metadata.csv").open("a") as file:
        file.write("blank.png,d,0\n")
    found = crnn_search.evaluate(digits_model, folder)
    files = [sorted(folder.glob(f"{name}[0-9]*.png")) for name in "abc"]
    files.append([folder / "blank.png"])
    values = [one.value for one in digits_model.predict_files(files)]
    truth = np.array([14, 14, 26, 0])
    errors = np.array(values) - truth
    assert found["score"]["rmse"] == pytest.approx(math.sqrt(np.square(errors).mean()), rel=1e-5)
    count = math.sqrt(np.square(np.array([3, 4, 5, 1]) * MEAN_DIGIT - truth).mean())
    assert found["baselines"]["count_only"]["rmse"] == pytest.approx(count)
    guess = math.sqrt(np.square(4.5 * MEAN_DIGIT - truth).mean())
    assert found["baselines"]["mean_guess"]["rmse"] == pytest.approx(guess)
    empty = found["input_warnings"]["empty"]
    assert (empty["count"], empty["example"]["file"]) == (1, str(folder / "blank.png"))
    assert "exact_sum_rate" in found["score"]


def test_arrays_of_digits_are_taken_as_they_are(digits_model: Model, digits: Digits) -> None:
    images = digits.images[:6].numpy().reshape(3, 2, 28, 28)
    found = crnn_search.evaluate(digits_model, SequenceData(images, None, [1, 2, 3]))
    errors = digits_model.predict(images) - np.array([1, 2, 3])
    assert found["score"]["rmse"] == pytest.approx(math.sqrt(np.square(errors).mean()))
    with pytest.raises(DataError, match="must be 28 × 28 in grey, one digit each, white on black"):
        crnn_search.evaluate(digits_model, arrays())


@pytest.fixture
def mnist_folder(tmp_path: Path, digits: Digits, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Synthetic digits as MNIST's files."""
    folder = tmp_path / "files"
    write_mnist(folder, digits)
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in mnist.FILES}
    monkeypatch.setattr(mnist, "FILES", files)
    return folder


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Options(split="train"), "--split must be test for MNIST"),
        (Options(target="sum"), "--target names a column of metadata.csv, got sum for MNIST"),
    ],
)
def test_of_mnist_only_the_test_images_are_evaluated(
    digits_model: Model, mnist_folder: Path, options: Options, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        evaluate(digits_model, mnist_folder, options)


def test_mnist_is_for_models_of_digits(model: Model, mnist_folder: Path) -> None:
    with pytest.raises(DataError, match=r"metadata\.csv"):
        crnn_search.evaluate(model, mnist_folder)
    with pytest.raises(InputError, match="--data-dir is for the data 'mnist' of a model of digits"):
        crnn_search.evaluate(model, "mnist", data_dir=mnist_folder)


def test_what_is_refused(model: Model, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=IMAGES)
    with pytest.raises(DataError, match="has no array 'targets'"):
        crnn_search.evaluate(model, tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", images=IMAGES, targets=np.full(30, np.nan))
    with pytest.raises(DataError, match=r"30 problems; the first 10.*\n.*targets\[0\]: must be a"):
        crnn_search.evaluate(model, tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"must have 1 or 3 channels, got C = 2"):
        crnn_search.evaluate(model, arrays(images=np.zeros((30, 4, 8, 8, 2), np.uint8)))


def test_a_task_of_other_images_is_no_reason_to_read_them(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only data with the targets of training are read for their digest."""
    monkeypatch.setattr("crnn_search.pipeline.evaluation_split.read", None)
    assert crnn_search.evaluate(model, arrays())["own_data"] is False
