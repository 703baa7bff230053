"""An exported model as an object."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crnn_search.data.arrays import read_npz
from crnn_search.errors import ImageError, InputError
from crnn_search.models import predictor
from crnn_search.models.model import Model
from crnn_search.models.pixel_ranges import PixelRanges
from crnn_search.models.predictor import Predictor, load
from tests.models.drawn_digits import EXAMPLE_SEQUENCES, EXAMPLES
from tests.models.networks import SPECS, SUMS, info_of

SEQUENCES = [
    [EXAMPLES.resolve() / f"{name}{place}_{digit}.png" for place, digit in enumerate(digits, 1)]
    for name, digits in zip("abc", EXAMPLE_SEQUENCES, strict=True)
]


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return Model(load(folder / "model.onnx"))


def test_files_their_contents_and_prepared_arrays_predict_the_same(
    model: Model, folder: Path
) -> None:
    data = read_npz(folder / "example.npz")
    expected = model.predict_running(data.pixels(), np.asarray(data.lengths))
    contents = [[path.read_bytes() for path in files] for files in SEQUENCES]
    for files in (SEQUENCES, contents, [list(map(str, files)) for files in SEQUENCES]):
        for prediction, running in zip(model.predict_files(files), expected, strict=True):
            assert prediction.running == pytest.approx(running[: len(prediction.running)], abs=0.02)
            assert prediction.value == prediction.running[-1]
            assert prediction.warnings == []


def test_what_a_model_says_of_itself(model: Model) -> None:
    assert model.task == SUMS
    assert model.spec["conv_channels"] == [4, 6]
    assert model.metrics == {}
    assert model.preprocessing.placement is not None


def test_warnings_name_file_and_position() -> None:
    info = replace(info_of(SPECS["2016"]), pixels=PixelRanges([0.9, 1], [0, 1], [0, 1]))
    model = Model(Predictor(lambda images, _: images.sum((2, 3, 4)), info))
    (prediction,) = model.predict_files([SEQUENCES[2] * 2])
    kinds = [(warning.kind, warning.position) for warning in prediction.warnings]
    assert kinds == [*(("unlike_training", place) for place in range(10)), ("too_long", None)]
    assert prediction.warnings[1].file == str(SEQUENCES[2][1])
    first, *_ = prediction.to_dict()["warnings"]
    assert first["message"].startswith("its pixels are unlike those of the training images: mean 0")
    with pytest.raises(InputError, match=r"c1_3\.png: its pixels are unlike(.*\n)+.*more than any"):
        model.predict_files([SEQUENCES[2] * 2], strict=True)


def test_sequences_and_files_that_are_missing(model: Model) -> None:
    with pytest.raises(InputError, match="must have one image at least, got none"):
        model.predict_files([SEQUENCES[0], []])
    with pytest.raises(ImageError, match=r"gone\.png does not exist"):
        model.predict_files([["gone.png"]])
    with pytest.raises(ImageError, match="image 1 cannot be decoded"):
        model.predict_files([[SEQUENCES[0][0], b"no picture"]])
    assert model.predict_files([]) == []


@given(st.lists(st.integers(1, 300), max_size=400), st.integers(1, 80))
def test_batches_have_all_rows_and_no_more_images_than_allowed(
    lengths: list[int], images: int
) -> None:
    counts = np.array(lengths, np.int64)
    with mock.patch.object(predictor, "CHUNK_PIXELS", images * 28 * 28):
        parts = list(predictor.batches(counts, SUMS.shape))
    assert sorted(row for rows in parts for row in rows.tolist()) == list(range(len(lengths)))
    for rows in parts:
        assert len(rows) == 1 or len(rows) * counts[rows].max() <= images
    longest = [int(counts[rows].max()) for rows in parts]
    assert longest == sorted(longest, reverse=True)
