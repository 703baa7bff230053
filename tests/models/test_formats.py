"""The contract that every format of a model file keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crnn_search.models.folder import FORMATS
from crnn_search.models.predictor import Predictor, load, running_sums
from tests.models.networks import IMAGES, SPECS, network, sequences, sums_one_by_one

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
