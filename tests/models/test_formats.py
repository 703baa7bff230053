"""The contract that every format of a model file keeps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn_search.errors import InputError, ModelFileError
from crnn_search.hyperparameters import ImageShape
from crnn_search.models.folder import FORMATS
from crnn_search.models.model import Model
from crnn_search.models.predictor import Predictor, load, running_sums
from tests.models.networks import IMAGES, SPECS, network, sequences, sums_one_by_one, write

Folders = Callable[[str], Path]
OTHERS = [name for name in SPECS if name != "embedding"]

# PyTorch warns, once a process, that it pads for an even kernel.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 1), (2, 12)])
def test_sums_equal_those_of_each_sequence_alone(
    folder: Path, file_format: str, shape: tuple[int, int]
) -> None:
    images, lengths = sequences(*shape)
    sums = load(folder / f"model.{file_format}")(images, lengths)
    assert sums.dtype == torch.float32
    assert not sums.requires_grad
    expected = sums_one_by_one(network(SPECS["embedding"]), images, lengths)
    torch.testing.assert_close(sums, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("name", OTHERS)
def test_other_networks(folder_of: Folders, name: str, file_format: str) -> None:
    images, lengths = sequences(3, 5)
    sums = load(folder_of(name) / f"model.{file_format}")(images, lengths)
    expected = sums_one_by_one(network(SPECS[name]), images, lengths)
    torch.testing.assert_close(sums, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(
    ("name", "garbage"),
    [("embedding", garbage) for garbage in (float("inf"), -1e30)]
    + [(name, float("nan")) for name in SPECS],
)
def test_padding_has_no_effect(
    folder_of: Folders, name: str, garbage: float, file_format: str
) -> None:
    images, lengths = sequences(5, 6, seed=3)
    spoiled = images.clone()
    spoiled[torch.arange(6)[None, :] >= lengths[:, None]] = garbage
    predict = load(folder_of(name) / f"model.{file_format}")
    assert torch.equal(predict(spoiled, lengths), predict(images, lengths))


@pytest.fixture(scope="module", params=FORMATS)
def predictor(folder: Path, request: pytest.FixtureRequest) -> Predictor:
    return load(folder / f"model.{request.param}")


@settings(derandomize=True, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    extra=st.integers(0, 7),
    garbage=st.floats(width=32),
    seed=st.integers(0, 1000),
)
def test_a_sequence_has_the_same_sum_alone_and_padded_in_a_batch(
    predictor: Predictor, lengths: list[int], extra: int, garbage: float, seed: int
) -> None:
    images, _ = sequences(len(lengths), max(lengths) + extra, seed)
    alone = [
        predictor(image[None, :length], torch.tensor([length]))
        for image, length in zip(images, lengths, strict=True)
    ]
    for image, length in zip(images, lengths, strict=True):
        image[length:] = garbage
    together = predictor(images, torch.tensor(lengths))
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


def test_running_sums_are_the_sums_of_the_prefixes(predictor: Predictor) -> None:
    pixels = IMAGES[:5].float().reshape(1, 5, 1, 28, 28) / 255
    prefixes = [float(predictor(pixels[:, :t], torch.tensor([t]))) for t in range(1, 6)]
    assert running_sums(predictor, IMAGES[:5]) == pytest.approx(prefixes, abs=1e-5)


@settings(max_examples=10, deadline=None)
@given(st.builds(ImageShape, st.sampled_from([1, 3]), st.integers(8, 40), st.integers(8, 40)))
def test_images_of_any_shape(shape: ImageShape) -> None:
    images, lengths = sequences(3, 4, shape=shape)
    expected = sums_one_by_one(network(SPECS["embedding"], shape), images, lengths)
    assert expected.isfinite().all()
    with TemporaryDirectory() as folder:
        write(SPECS["embedding"], Path(folder), *FORMATS, shape=shape)
        for name in FORMATS:
            predictor = load(Path(folder) / f"model.{name}")
            assert predictor.shape == shape
            torch.testing.assert_close(predictor(images, lengths), expected, rtol=0, atol=1e-4)


COLOUR = ImageShape(3, 10, 24)


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder of a network for small images in colour."""
    folder = tmp_path_factory.mktemp("colour")
    write(SPECS["embedding"], folder, *FORMATS, shape=COLOUR)
    return folder


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("other", [(1, 10, 24), (3, 24, 10), (3, 10, 25), (10, 24)])
def test_images_of_another_shape_are_refused(
    colour: Path, file_format: str, other: tuple[int, ...]
) -> None:
    predictor = load(colour / f"model.{file_format}")
    message = r"images must have the shape \(B, T, 3, 10, 24\), got \(2, 4, .*"
    with pytest.raises(InputError, match=message):
        predictor(torch.zeros(2, 4, *other), torch.tensor([4, 1]))
    with pytest.raises(InputError, match=message):
        Model(predictor).predict(torch.zeros(2, 4, *other).numpy())


def test_files_state_the_shape_of_an_image(colour: Path) -> None:
    assert json.loads((colour / "config.json").read_text())["image_shape"] == [3, 10, 24]
    assert "float32 (B, T, 3, 10, 24)," in (colour / "README.md").read_text()
    metadata = {entry.key: entry.value for entry in onnx.load(colour / "model.onnx").metadata_props}
    assert json.loads(metadata["image_shape"]) == [3, 10, 24]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[3, 10", "is truncated, altered or not an ONNX file: "),
        ("[2, 10, 24]", "image_shape must be 1 or 3 channels"),
        ("[3, 24, 10]", "it fails on images"),
        ("[1, 28, 28]", "it fails on images"),
    ],
)
def test_an_altered_shape_is_refused(colour: Path, tmp_path: Path, text: str, message: str) -> None:
    model = onnx.load(colour / "model.onnx")
    onnx.helper.set_model_props(model, {"image_shape": text})
    onnx.save_model(model, tmp_path / "m.onnx")
    with pytest.raises(ModelFileError, match=message):
        load(tmp_path / "m.onnx")


def test_a_file_that_states_no_shape_is_of_mnists(folder: Path, tmp_path: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    onnx.helper.set_model_props(model, {})
    onnx.save_model(model, tmp_path / "m.onnx")
    images, lengths = sequences(2, 3)
    expected = load(folder / "model.onnx")(images, lengths)
    assert torch.equal(load(tmp_path / "m.onnx")(images, lengths), expected)
