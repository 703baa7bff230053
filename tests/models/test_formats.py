"""The contract that every format of a model file keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn_search.data.task_info import TaskInfo
from crnn_search.errors import InputError
from crnn_search.hyperparameters import ImageShape
from crnn_search.models import predictor as predictors
from crnn_search.models.folder import FORMATS
from crnn_search.models.model import Model
from crnn_search.models.onnx_file import open_session
from crnn_search.models.predictor import Predictor, load, tolerance
from crnn_search.models.torch_file import predictor_of
from tests.models.conftest import FolderOf
from tests.models.networks import (
    COLOUR,
    GREY,
    IMAGES,
    SPECS,
    SUMS,
    images_of,
    info_of,
    network,
    one_by_one,
    predict,
    recording,
    sequences,
    write,
)

OTHERS = [name for name in SPECS if name != "embedding"]

# PyTorch warns, once a process, that it pads for an even kernel.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 1), (2, 12)])
def test_sums_equal_those_of_each_sequence_alone(
    folder: Path, file_format: str, shape: tuple[int, int]
) -> None:
    images, lengths = sequences(*shape)
    sums = predict(load(folder / f"model.{file_format}"), images, lengths)
    assert sums.dtype == torch.float32
    expected = one_by_one(network(SPECS["embedding"]), images, lengths)
    torch.testing.assert_close(sums, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("name", OTHERS)
def test_other_networks(folder_of: FolderOf, name: str, file_format: str) -> None:
    images, lengths = sequences(3, 5)
    sums = predict(load(folder_of(name) / f"model.{file_format}"), images, lengths)
    expected = one_by_one(network(SPECS[name]), images, lengths)
    torch.testing.assert_close(sums, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(
    ("name", "garbage"),
    [("embedding", garbage) for garbage in (float("inf"), -1e30)]
    + [(name, float("nan")) for name in SPECS],
)
def test_padding_has_no_effect(
    folder_of: FolderOf, name: str, garbage: float, file_format: str
) -> None:
    images, lengths = sequences(5, 6, seed=3)
    spoiled = images.clone()
    spoiled[torch.arange(6)[None, :] >= lengths[:, None]] = garbage
    model = load(folder_of(name) / f"model.{file_format}")
    assert torch.equal(predict(model, spoiled, lengths), predict(model, images, lengths))


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
        predict(predictor, image[None, :length], torch.tensor([length]))
        for image, length in zip(images, lengths, strict=True)
    ]
    for image, length in zip(images, lengths, strict=True):
        image[length:] = garbage
    together = predict(predictor, images, torch.tensor(lengths))
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("task", [COLOUR, GREY], ids=lambda task: task.name)
def test_predictions_are_in_the_targets_unit(
    folder_of: FolderOf, task: TaskInfo, file_format: str
) -> None:
    predictor = load(folder_of("embedding", task) / f"model.{file_format}")
    assert predictor.task == task
    images, lengths = sequences(5, 4, shape=task.shape)
    expected = one_by_one(network(SPECS["embedding"], task), images, lengths)
    assert (expected - task.center).abs().max() > task.scale / 10
    predictions = predict(predictor, images, lengths)
    torch.testing.assert_close(predictions, expected, rtol=0, atol=1e-4 * task.scale)


@settings(max_examples=8, deadline=None)
@given(
    shape=st.builds(ImageShape, st.sampled_from([1, 3]), st.integers(8, 32), st.integers(8, 32)),
    center=st.floats(-1e9, 1e9),
    scale=st.floats(1e-6, 1e9),
)
def test_formats_agree_for_any_images_and_targets(
    shape: ImageShape, center: float, scale: float
) -> None:
    task = replace(COLOUR, shape=shape, center=center, scale=scale)
    images, lengths = sequences(3, 4, shape=shape)
    expected = one_by_one(network(SPECS["embedding"], task), images, lengths)
    assert expected.isfinite().all()
    with TemporaryDirectory() as folder:
        write(SPECS["embedding"], Path(folder), *FORMATS, task=task)
        for name in FORMATS:
            predictor = load(Path(folder) / f"model.{name}")
            assert predictor.task == task
            difference = (predict(predictor, images, lengths) - expected).abs().max()
            assert difference <= tolerance(task, expected.numpy())


@pytest.mark.parametrize("task", [SUMS, COLOUR, GREY], ids=lambda task: task.name)
@pytest.mark.parametrize("chunk", [1, 3000, predictors.CHUNK_PIXELS])
def test_running_predictions_are_those_of_the_prefixes(
    folder_of: FolderOf, monkeypatch: pytest.MonkeyPatch, task: TaskInfo, chunk: int
) -> None:
    monkeypatch.setattr(predictors, "CHUNK_PIXELS", chunk)
    images = images_of(task.shape)
    parts = [images[:5], images[5:6], images[6:13], images[13:16]]
    sequences = [part.numpy() for part in parts]
    for name in FORMATS:
        model = Model(load(folder_of("embedding", task) / f"model.{name}"))
        for part, running in zip(parts, model.predict_pixels(sequences), strict=True):
            pixels = part[None].float() / 255
            prefixes = [
                float(predict(model.predictor, pixels[:, :t], torch.tensor([t])))
                for t in range(1, len(part) + 1)
            ]
            assert running == pytest.approx(prefixes, rel=1e-6, abs=1e-5 * task.scale)


def test_running_predictions_beyond_a_length_are_nan(folder_of: FolderOf) -> None:
    images, lengths = sequences(3, 4)
    for name in FORMATS:
        model = Model(load(folder_of("embedding") / f"model.{name}"))
        running = model.predict_running(images.numpy(), lengths.numpy())
        beyond = np.arange(4) >= lengths.numpy()[:, None]
        np.testing.assert_array_equal(np.isnan(running), beyond)
        last = running[np.arange(3), lengths.numpy() - 1]
        np.testing.assert_array_equal(last, model.predict(images.numpy(), lengths.numpy()))


@pytest.mark.parametrize(("wanted", "threads"), [("3", 3), ("", 5), ("0", 5), ("2,1", 5)])
def test_an_onnx_session_has_the_threads_that_the_environment_says(
    wanted: str, threads: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(5)))
    session = open_session(str(folder / "model.onnx"))
    assert session.get_session_options().intra_op_num_threads == threads


def test_few_images_are_encoded_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, lengths = sequences(3, 5)
    expected = predict(load(folder), images, lengths)
    monkeypatch.setattr(predictors, "CHUNK_PIXELS", 4 * 28 * 28)
    encoded: list[int] = []
    model = network(SPECS["embedding"])
    model.encoder.register_forward_pre_hook(lambda _, inputs: encoded.append(len(inputs[0])))
    predictions = predict(predictor_of(model, info_of(SPECS["embedding"])), images, lengths)
    torch.testing.assert_close(predictions, expected, rtol=0, atol=1e-5)
    assert max(encoded) == 4
    assert sum(encoded) == lengths.sum()  # each image once


def test_few_images_are_predicted_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictors, "CHUNK_PIXELS", 10 * 28 * 28)
    shapes: list[tuple[int, ...]] = []
    model = Model(recording(load(folder / "model.onnx"), shapes))
    pixels = IMAGES.numpy()
    model.predict_pixels([pixels[:5], pixels[:3], pixels[:2], pixels[:5], pixels[:12], pixels[:3]])
    assert [shape[:2] for shape in shapes] == [(1, 12), (2, 5), (3, 3)]


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(
    ("task", "others", "expected"),
    [
        (COLOUR, [(1, 16, 24), (3, 24, 16), (3, 16, 25), (16, 24)], r"\(B, T, 3, 16, 24\)"),
        (GREY, [(3, 8, 8), (1, 8, 9), (28, 28)], r"\(B, T, 1, 8, 8\)"),
    ],
    ids=["colour", "grey"],
)
def test_images_of_another_shape_are_refused(
    folder_of: FolderOf,
    task: TaskInfo,
    others: list[tuple[int, ...]],
    expected: str,
    file_format: str,
) -> None:
    predictor = load(folder_of("embedding", task) / f"model.{file_format}")
    for other in others:
        images = torch.zeros(2, 4, *other)
        with pytest.raises(InputError, match=rf"must have the shape {expected}, got \(2, 4, "):
            predict(predictor, images, torch.tensor([4, 1]))
        with pytest.raises(InputError, match=rf"must have the shape .*{expected}, got \(2, 4, "):
            Model(predictor).predict(images.numpy())


def test_arrays_in_each_form(folder_of: FolderOf) -> None:
    for task in (COLOUR, GREY):
        model = Model(load(folder_of("embedding", task)))
        images = images_of(task.shape)[:6].reshape(2, 3, *task.shape).numpy()
        predictions = model.predict(images, [3, 1])
        assert predictions.dtype == np.float32
        forms: list[Any] = [images / 255, (images / 255).astype(np.float32)]
        forms += [images[:, :, 0]] if task.shape.channels == 1 else []
        for form in forms:
            np.testing.assert_allclose(
                model.predict(form, [3, 1]), predictions, rtol=1e-6, atol=1e-4 * task.scale
            )
