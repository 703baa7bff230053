"""Image files as the models of own data take them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from crnn_search.data import images as data_images
from crnn_search.data.task_info import TaskInfo
from crnn_search.errors import ImageError
from crnn_search.models.digit_images import read_digit
from crnn_search.models.images import read_images
from tests.data.folders import picture
from tests.models.altered import altered
from tests.models.networks import COLOUR, GREY, SUMS
from tests.models.test_digit_images import a_digit, pictures


def save(path: Path, size: tuple[int, int], channels: int = 1) -> Path:
    """A random picture of this many rows and columns."""
    Image.fromarray(picture(3, size, channels)).save(path)
    return path


@pytest.mark.parametrize("task", [COLOUR, GREY], ids=lambda task: task.name)
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_read_as_those_of_a_data_set(
    tmp_path: Path, task: TaskInfo, channels: int
) -> None:
    paths = [
        save(tmp_path / "a.png", task.shape[1:], channels),
        save(tmp_path / "b.png", (40, 30), channels),
        save(tmp_path / "c.png", (5, 7), channels),
    ]
    told: list[str] = []
    sequence = read_images(paths, task, told.append)
    assert (sequence.dtype, sequence.shape) == (torch.uint8, (3, *task.shape))
    for path, image in zip(paths, sequence, strict=True):
        expected = data_images.read_image(path, task.shape[1:], task.shape.channels)
        np.testing.assert_array_equal(image.numpy(), expected)
    size = data_images.size_text(task.shape[1:])
    assert told == [
        f"note: 2 of 3 images were resized to {size} pixels (rows × columns); the first was "
        f"{paths[1]}, 40 × 30"
    ]


def test_pictures_of_the_right_size_are_unchanged(tmp_path: Path) -> None:
    told: list[str] = []
    path = save(tmp_path / "a.png", (16, 24), 3)
    (image,) = read_images([path], COLOUR, told.append)
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), picture(3, (16, 24), 3))
    assert told == []


def test_pictures_are_turned_as_the_exif_data_say(tmp_path: Path) -> None:
    """A turned picture of the right size is not resized."""
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the picture is at the right
    pixels = picture(3, (24, 16), 3)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    told: list[str] = []
    (image,) = read_images([tmp_path / "a.png"], COLOUR, told.append)
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), np.rot90(pixels, -1))
    assert told == []


def test_digits_are_read_as_mnist_has_them(tmp_path: Path) -> None:
    Image.fromarray(255 - a_digit()).resize((60, 60)).save(tmp_path / "digit.png")
    Image.new("L", (28, 28)).save(tmp_path / "empty.png")
    told: list[str] = []
    paths = [tmp_path / "digit.png", tmp_path / "empty.png"]
    sequence = read_images(paths, SUMS, told.append)
    assert torch.equal(sequence[0, 0], read_digit(paths[0]))
    assert sequence.shape == (2, 1, 28, 28)
    assert told == [f"warning: {paths[1]}: there is nothing to read in it, it counts as black"]


def test_files_that_are_no_pictures_are_refused(tmp_path: Path) -> None:
    good = save(tmp_path / "good.png", (8, 8))
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "half.png").write_bytes(good.read_bytes()[:60])
    os.mkfifo(tmp_path / "pipe.png")
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "float.tif")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "gigantic.png")
    frames = [Image.new("L", (8, 8), value) for value in (0, 255)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    for name, reason in {
        "text.png": "cannot be decoded: cannot identify image file",
        "half.png": "cannot be decoded: ",
        "pipe.png": "cannot be read: it is a pipe, a device or a socket",
        "float.tif": "has pixels of 32 bits, whose range is unknown",
        "gigantic.png": "has more than",
        "film.gif": "has several frames",
        "gone.png": "does not exist",
        "a\0b.png": "does not exist",
    }.items():
        message = (
            rf"{name} {reason}.*; give an image file such as a PNG "
            r"\(the model takes 8 × 8 pixels in grey\)"
        )
        with pytest.raises(ImageError, match=message):
            read_images([good, tmp_path / name], GREY, print)


@pytest.mark.slow
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_altered_pictures_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "altered.picture"
    path.write_bytes(altered(data, data.draw(st.sampled_from(pictures()))))
    with contextlib.suppress(ImageError):
        sequence = read_images([path], COLOUR, lambda text: None)
        assert (sequence.shape, sequence.dtype) == ((1, 3, 16, 24), torch.uint8)
