"""Image files of many kinds become images as MNIST has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from crnn_search.errors import ImageError
from crnn_search.models.images import read_image


def a_digit() -> npt.NDArray[np.uint8]:
    """White on black, uint8 `(28, 28)`, not symmetric."""
    pixels = np.zeros((28, 28), np.uint8)
    pixels[5:20, 8:12] = 250
    pixels[5:9, 8:20] = 130
    return pixels


def test_an_image_as_mnist_has_them_is_unchanged(tmp_path: Path) -> None:
    Image.fromarray(a_digit()).save(tmp_path / "digit.png")
    image = read_image(tmp_path / "digit.png")
    assert image.dtype == torch.uint8
    assert torch.equal(image, torch.from_numpy(a_digit()))


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "CMYK"])
def test_black_on_white_is_inverted_in_every_mode(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("digit.tif" if mode == "CMYK" else "digit.png")
    Image.fromarray(255 - a_digit()).convert(mode).save(path)
    assert torch.equal(read_image(path), torch.from_numpy(a_digit()))


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    layers = np.zeros((28, 28, 4), np.uint8)  # black ink of the digit's opacity, on nothing
    layers[..., 3] = a_digit()
    Image.fromarray(layers).save(tmp_path / "digit.png")
    assert torch.equal(read_image(tmp_path / "digit.png"), torch.from_numpy(a_digit()))


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_more_than_8_bits_are_scaled_and_not_clipped(tmp_path: Path, dtype: str) -> None:
    deep = a_digit().astype(dtype) * (200 if dtype == "uint16" else 0.001)
    Image.fromarray(deep.astype(dtype)).save(tmp_path / "digit.tif")
    expected = np.round(a_digit() * (255 / 250)).astype(np.uint8)
    assert torch.equal(read_image(tmp_path / "digit.tif"), torch.from_numpy(expected))


def test_a_large_image_is_resized(tmp_path: Path) -> None:
    large = np.kron(a_digit(), np.ones((10, 12), np.uint8))
    Image.fromarray(large).save(tmp_path / "digit.png")
    image = read_image(tmp_path / "digit.png")
    assert image.shape == (28, 28)
    assert (image.float() - torch.from_numpy(a_digit()).float()).abs().mean() < 8


def test_a_missing_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png does not exist; give an image file"):
        read_image(tmp_path / "gone.png")


def test_an_image_that_cannot_be_decoded_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    Image.fromarray(np.arange(784, dtype=np.uint8).reshape(28, 28)).save(tmp_path / "half.png")
    content = (tmp_path / "half.png").read_bytes()
    (tmp_path / "half.png").write_bytes(content[: len(content) // 2])
    for name in ("text.png", "half.png", ""):
        with pytest.raises(ImageError, match=f"{name} cannot be decoded: .*; give an image file"):
            read_image(tmp_path / name)
