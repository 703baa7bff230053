"""predict --sequences: many sequences of a data set."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crnn_search.models import predictor
from tests.cli.conftest import CommandLine
from tests.cli.test_predict import constant_model
from tests.models.drawn_digits import EXAMPLES
from tests.models.networks import COLOUR, SPECS, SUMS, write

OWN = replace(COLOUR, unit="mm", center=5.0, scale=2.0, longest=3)


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A model that always predicts 7."""
    return str(constant_model(tmp_path / "m.safetensors", OWN, 7))


@pytest.fixture
def arrays(tmp_path: Path) -> str:
    """Sequences without targets, of 1 to 4 images of another size."""
    images = np.random.default_rng(0).integers(0, 256, (4, 4, 20, 20, 3), dtype=np.uint8)
    np.savez(tmp_path / "new.npz", images=images, lengths=np.array([2, 4, 1, 3]))
    return str(tmp_path / "new.npz")


def test_a_table_of_sequences_without_targets(
    crnn_search: CommandLine, model: str, arrays: str
) -> None:
    done = crnn_search("predict", model, "--sequences", arrays)
    assert done.code == 0
    cells = [line.split() for line in done.out.splitlines()]
    assert [row for row in cells if row and row[0].isdigit()] == [
        [str(row), str(length), "7.00", "mm"] for row, length in enumerate([2, 4, 1, 3])
    ]
    assert done.err == (
        "warning: sequence 1, the sequence has 4 images, more than any of training: 3; its "
        "prediction may be wrong\n"
        "note: 10 of 10 images were resized to 16 × 24 pixels (rows × columns)\n"
    )


def test_files_of_the_predictions(
    crnn_search: CommandLine, tmp_path: Path, model: str, arrays: str
) -> None:
    table, plot = tmp_path / "found.csv", tmp_path / "found.png"
    options = ("--csv", str(table), "--plot", str(plot), "--json")
    done = crnn_search("predict", model, "--sequences", arrays, *options)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["images"] for row in rows] == ["2", "4", "1", "3"]
    assert {row["prediction"] for row in rows} == {"7.0"}
    assert [row["warnings"] for row in rows] == ["0", "1", "0", "0"]
    found = json.loads(done.out)
    assert [one["sequence"] for one in found] == ["0", "1", "2", "3"]
    assert [len(one["running"]) for one in found] == [2, 4, 1, 3]
    assert found[1]["warnings"][0]["kind"] == "too_long"
    with Image.open(plot) as drawn:
        assert drawn.format == "PNG"
        assert drawn.size[1] > 4 * 56


def test_predictions_are_those_of_each_sequence_alone(
    crnn_search: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In files, and in parts of few images."""
    monkeypatch.setattr(predictor, "CHUNK_PIXELS", 5 * 28 * 28)
    write(SPECS["embedding"], tmp_path, "onnx", task=SUMS)
    folder = str(EXAMPLES.resolve())
    done = crnn_search("predict", str(tmp_path), "--sequences", folder, "--json")
    assert (done.code, done.err) == (0, "")
    for one in json.loads(done.out):
        pattern = f"{folder}/{one['sequence']}*.png"
        alone = json.loads(crnn_search("predict", str(tmp_path), pattern, "--json").out)
        assert one["running"] == pytest.approx(alone["running"], abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "predict needs the images of a sequence, or --sequences, got neither"),
        (["--sequences", "a.npz", "b.png"], "goes without images and without --show, got the imag"),
        (["--sequences", "a.npz", "--show", "c.png"], "without --show, got --show c.png"),
        (["--sequences", "gone.npz"], "gone.npz"),
    ],
)
def test_what_is_refused(
    crnn_search: CommandLine, model: str, arguments: list[str], message: str
) -> None:
    done = crnn_search("predict", model, *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_strict(crnn_search: CommandLine, tmp_path: Path, model: str, arrays: str) -> None:
    table = tmp_path / "found.csv"
    done = crnn_search("predict", model, "--sequences", arrays, "--strict", "--csv", str(table))
    assert (done.code, done.out, table.exists()) == (2, "", False)
    assert "sequence 1, the sequence has 4 images" in done.err
