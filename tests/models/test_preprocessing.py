"""Image files as models take them."""

from __future__ import annotations

import contextlib
import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from crnn_search.data import images as data_images
from crnn_search.data.task_info import TaskInfo
from crnn_search.errors import ImageError
from crnn_search.models.digit_shape import Placement
from crnn_search.models.preprocessing import Preprocessing
from tests.data.folders import picture
from tests.models.altered import altered
from tests.models.drawn_digits import EXAMPLES, PREPARED, prepared_examples
from tests.models.networks import COLOUR, GREY, SUMS
from tests.models.test_digit_images import pictures


def save(path: Path, size: tuple[int, int], channels: int = 1) -> Path:
    """A random picture of this many rows and columns."""
    Image.fromarray(picture(3, size, channels)).save(path)
    return path


@pytest.mark.parametrize("task", [COLOUR, GREY], ids=lambda task: task.name)
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_read_as_those_of_a_data_set(
    tmp_path: Path, task: TaskInfo, channels: int
) -> None:
    sizes = [task.shape[1:], (40, 30), (5, 7)]
    for size in sizes:
        path = save(tmp_path / "a.png", size, channels)
        expected = data_images.read_image(path, task.shape[1:], task.shape.channels)
        for source in (path, path.read_bytes()):
            prepared = Preprocessing.of(task).read(source, "a picture")
            assert prepared.pixels.dtype == np.uint8
            np.testing.assert_array_equal(prepared.pixels, expected)
            assert (prepared.name, prepared.size, prepared.warnings) == ("a picture", size, [])


def test_pictures_of_the_right_size_are_unchanged(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", (16, 24), 3)
    pixels = Preprocessing.of(COLOUR).read(path, "a").pixels
    np.testing.assert_array_equal(np.moveaxis(pixels, 0, 2), picture(3, (16, 24), 3))


def test_pictures_are_turned_as_the_exif_data_say(tmp_path: Path) -> None:
    """A turned picture of the right size is not resized."""
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the picture is at the right
    pixels = picture(3, (24, 16), 3)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    prepared = Preprocessing.of(COLOUR).read(tmp_path / "a.png", "a")
    np.testing.assert_array_equal(np.moveaxis(prepared.pixels, 0, 2), np.rot90(pixels, -1))
    assert prepared.size == (16, 24)


def test_digits_are_placed_as_the_model_says() -> None:
    pixels = np.full((90, 60), 250, np.uint8)
    pixels[20:70, 25:35] = 10
    content = BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    heights = []
    for box in (10, 20):
        prepared = Preprocessing(SUMS.shape, Placement(box, 3.0, 0.5)).read(content.getvalue(), "a")
        assert prepared.pixels.shape == (1, 28, 28)
        heights.append(int((prepared.pixels[0].max(1) > 128).sum()))
    assert heights == [10, 20]


def test_warnings_name_the_picture() -> None:
    content = BytesIO()
    Image.new("L", (40, 40), 200).save(content, "PNG")
    prepared = Preprocessing.of(SUMS).read(content.getvalue(), "page 3")
    (warning,) = prepared.warnings
    assert (warning.kind, warning.file, warning.position) == ("empty", "page 3", None)
    assert str(warning) == "page 3: there is nothing to read in it, it counts as black"
    assert not prepared.pixels.any()


def test_examples_are_the_pictures_of_the_folder() -> None:
    with np.load(PREPARED) as stored:
        for name, expected in prepared_examples(EXAMPLES).items():
            difference = np.abs(stored[name].astype(float) - expected)
            assert difference.max() <= 2, name  # processors resize a little differently


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
            Preprocessing.of(GREY).read(tmp_path / name, name)


@pytest.mark.slow
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_altered_pictures_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "altered.picture"
    path.write_bytes(altered(data, data.draw(st.sampled_from(pictures()))))
    with contextlib.suppress(ImageError):
        pixels = Preprocessing.of(COLOUR).read(path, "a").pixels
        assert pixels.shape == (3, 16, 24)
