"""Image files of all kinds, in one format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crnn_search.data.images import (
    ImageFormat,
    convert,
    in_threads,
    read_header,
    read_image,
)
from crnn_search.data.read import read
from crnn_search.data.summary import describe
from crnn_search.errors import DataError
from tests.data.folders import clips, picture

GREY, COLOUR = picture(1, (10, 12)), picture(2, (10, 12), 3)


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path: Path, kind: str, orientation: int) -> None:
    """The pixel that is brightest in the upper left as shown."""
    shown = np.zeros((16, 32), np.uint8)
    shown[:8, :8] = 255
    stored = {
        1: shown,
        2: shown[:, ::-1],
        3: shown[::-1, ::-1],
        4: shown[::-1],
        5: shown.T,
        6: np.rot90(shown),
        7: shown[::-1, ::-1].T,
        8: np.rot90(shown, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"lossless": True} if kind == "webp" else {}
    path = tmp_path / f"a.{kind}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, **options)
    assert read_header(path)[0] == (16, 32)
    found = read_image(path, (16, 32), 1)[0]
    assert abs(found.astype(int) - shown).max() < 12


@pytest.mark.parametrize(
    ("image", "channels"),
    [
        (Image.fromarray(GREY), 1),
        (Image.fromarray(GREY > 99), 1),
        (Image.fromarray(GREY.astype(np.uint16) * 257), 1),
        (Image.fromarray(GREY).convert("LA"), 1),
        (Image.fromarray(COLOUR), 3),
        (Image.fromarray(COLOUR).convert("RGBA"), 3),
        (Image.fromarray(COLOUR).convert("P"), 3),
    ],
)
def test_modes(tmp_path: Path, image: Image.Image, channels: int) -> None:
    image.save(tmp_path / "a.png")
    assert read_header(tmp_path / "a.png") == ((10, 12), channels)
    found = read_image(tmp_path / "a.png", (10, 12), channels)
    assert found.shape == (channels, 10, 12)
    if image.mode not in {"1", "P"}:
        np.testing.assert_array_equal(found[0], GREY if channels == 1 else COLOUR[:, :, 0])


def test_transparent_pixels_become_white() -> None:
    layers = np.zeros((8, 8, 4), np.uint8)
    layers[:4, :, 3] = 255
    found = convert(Image.fromarray(layers), (8, 8), 1)
    assert found[0, :4].max() == 0
    assert found[0, 4:].min() == 255


def test_image_is_resized_without_keeping_proportions() -> None:
    found = convert(Image.fromarray(COLOUR), (20, 8), 3)
    assert found.shape == (3, 20, 8)


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_header(path)
    return str(caught.value)


def test_file_is_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(picture(number)) for number in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert refusal(tmp_path / "a.gif") == "has several frames; save each as a file of its own"
    frames[0].save(tmp_path / "b.png", save_all=True, append_images=frames[1:])
    assert refusal(tmp_path / "b.png") == "has several frames; save each as a file of its own"
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "c.tiff")
    assert refusal(tmp_path / "c.tiff") == (
        "has pixels of 32 bits, whose range is unknown; save it with 8 or 16"
    )
    (tmp_path / "d.png").write_bytes(b"no image")
    assert refusal(tmp_path / "d.png").startswith("cannot be decoded: cannot identify image file")


@pytest.mark.parametrize("side", [9_500, 20_000])
def test_gigantic_image_is_refused(tmp_path: Path, side: int) -> None:
    """Of a size that Pillow warns of, or refuses."""
    clips(tmp_path / "clips")
    Image.new("1", (side, side)).save(tmp_path / "clips" / "3.png")
    expected = r"row 5: 3\.png has more than 89,478,485 pixels; make it smaller"
    with pytest.raises(DataError, match=expected):
        read(tmp_path / "clips")


def test_photograph_with_previews_is_no_animation(tmp_path: Path) -> None:
    previews = [Image.fromarray(picture(1, (8, 8), 3))]
    photograph = Image.fromarray(picture(2, (16, 20), 3))
    photograph.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=previews)
    assert read_header(tmp_path / "a.jpg") == ((16, 20), 3)


@pytest.mark.parametrize("kept", [30, 60, 100])
def test_truncated_image_is_refused(cache: Path, tmp_path: Path, kept: int) -> None:
    clips(tmp_path / "clips")
    path = tmp_path / "clips" / "3.png"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"metadata\.csv, row 5: 3\.png cannot be decoded: "):
        read(tmp_path / "clips")
    assert list((cache / "data").glob("[!.]*")) == []


def test_mixed_sizes_and_channels_get_the_most_frequent_size_in_colour(
    cache: Path, tmp_path: Path
) -> None:
    clips(tmp_path / "clips")
    for number, size in ((0, (16, 12)), (1, (12, 16)), (2, (9, 9))):
        Image.fromarray(picture(number, size, 3)).save(tmp_path / "clips" / f"{number}.png")
    data = read(tmp_path / "clips")
    assert data.images.shape[1:] == (3, 8, 8)
    lines = dict(describe(data))
    assert lines["size"] == (
        "8 × 8; 3 had another size and were resized with the Lanczos filter, proportions not kept"
    )
    assert lines["channels"] == "3, colour; 9 were grey"
    data = read(tmp_path / "clips", image=ImageFormat((12, 16), 1))
    assert data.images.shape[1:] == (1, 12, 16)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"size": (7, 8)}, "images are 7 × 8, but 8 × 8 to 256 × 256 are valid; resize them"),
        ({"size": (8, 257)}, "images are 8 × 257, but 8 × 8 to 256 × 256 are valid; resize them"),
        ({"channels": 4}, r"channels must be 1 \(grey\) or 3 \(colour\), got 4"),
    ],
)
def test_format_is_refused(
    cache: Path, tmp_path: Path, options: dict[str, Any], expected: str
) -> None:
    clips(tmp_path / "clips")
    with pytest.raises(DataError, match=expected):
        read(tmp_path / "clips", image=ImageFormat(**options))


def test_threads_keep_the_order_and_return_errors() -> None:
    def check(number: int) -> int:
        if number % 100 == 7:
            raise DataError(f"{number}")
        return number

    steps: list[tuple[int, int]] = []
    found = list(in_threads(check, range(1000), lambda done, total: steps.append((done, total))))
    assert [str(value) for value in found] == [str(number) for number in range(1000)]
    assert sum(isinstance(value, DataError) for value in found) == 10
    assert steps[-1] == (1000, 1000)
    assert steps == sorted(steps)


def test_pillow_is_ready_before_threads_open_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the first threads may find no format for an image: see the list that `init` fills."""
    calls: list[str] = []
    monkeypatch.setattr(Image, "init", lambda: calls.append("init"))
    list(in_threads(calls.append, ["image"] * 2, lambda done, total: None))
    assert calls == ["init", "image", "image"]
