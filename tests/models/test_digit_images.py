"""Image files of many kinds become images as MNIST has them."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from crnn_search.data.mnist_sums import MnistSource
from crnn_search.errors import ImageError
from crnn_search.models.preprocessing import Preprocessing
from tests.models.altered import altered
from tests.models.drawn_digits import draw_all, draw_double, draw_empty, read_digit


def a_digit() -> npt.NDArray[np.uint8]:
    """White on black, uint8 `(28, 28)`, not symmetric."""
    pixels = np.zeros((28, 28), np.uint8)
    pixels[5:20, 8:12] = 250
    pixels[5:9, 8:20] = 130
    return pixels


def test_an_image_as_mnist_has_them_is_unchanged(tmp_path: Path) -> None:
    Image.fromarray(a_digit()).save(tmp_path / "digit.png")
    image = read_digit(tmp_path / "digit.png")
    assert image.dtype == torch.uint8
    assert torch.equal(image, torch.from_numpy(a_digit()))


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "CMYK"])
def test_black_on_white_is_inverted_in_every_mode(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("digit.tif" if mode == "CMYK" else "digit.png")
    Image.fromarray(255 - a_digit()).convert(mode).save(path)
    assert torch.equal(read_digit(path), torch.from_numpy(a_digit()))


@pytest.mark.parametrize(
    "colour", [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 0, 255), (255, 255, 0), (128, 128, 128)]
)
@pytest.mark.parametrize("opacity", [1.0, 0.5])
def test_ink_of_any_colour_on_nothing(
    tmp_path: Path, colour: tuple[int, int, int], opacity: float
) -> None:
    layers = np.zeros((28, 28, 4), np.uint8)
    layers[..., :3] = colour
    layers[..., 3] = a_digit() * opacity
    Image.fromarray(layers).save(tmp_path / "digit.png")
    assert difference(read_digit(tmp_path / "digit.png"), a_digit()) <= 6


def difference(image: torch.Tensor, expected: npt.NDArray[np.uint8]) -> float:
    """The largest difference of two images in a pixel."""
    return (image.float() - torch.from_numpy(expected).float()).abs().max().item()


@pytest.mark.parametrize("mode", ["LA", "P"])
def test_white_ink_on_nothing_in_other_modes(tmp_path: Path, mode: str) -> None:
    ink = np.full((28, 28, 4), 255, np.uint8)
    ink[..., 3] = np.where(a_digit() > 200, 255, 0)
    image = Image.fromarray(ink)
    if mode == "LA":
        image.convert("LA").save(tmp_path / "digit.png")
    else:  # one colour of a palette is transparent
        palette = Image.fromarray((ink[..., 3] > 0).astype(np.uint8), "P")
        palette.putpalette([0, 0, 0, 255, 255, 255])
        palette.save(tmp_path / "digit.png", transparency=0)
    assert torch.equal(read_digit(tmp_path / "digit.png"), torch.from_numpy(ink[..., 3]))


@pytest.mark.parametrize("inverted", [False, True])
def test_paper_of_a_card_goes_on_where_pixels_are_transparent(
    tmp_path: Path, inverted: bool
) -> None:
    layers = np.zeros((28, 28, 4), np.uint8)
    layers[..., :3] = (a_digit() if inverted else 255 - a_digit())[..., None]
    layers[2:26, 2:26, 3] = 255
    Image.fromarray(layers).save(tmp_path / "digit.png")
    assert torch.equal(read_digit(tmp_path / "digit.png"), torch.from_numpy(a_digit()))


def test_an_image_of_nothing_is_black(tmp_path: Path) -> None:
    nothing = np.random.default_rng(0).integers(256, size=(28, 28, 4), dtype=np.uint8)
    nothing[..., 3] = 0
    Image.fromarray(nothing).save(tmp_path / "nothing.png")
    assert not read_digit(tmp_path / "nothing.png").any()


TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,  # stored turned left: a viewer turns it right
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_orientation_of_exif(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(255 - a_digit()).convert("RGB").transpose(TURNED[orientation])
    stored.save(tmp_path / f"digit.{suffix}", exif=exif, lossless=True)  # webp has a choice
    assert torch.equal(read_digit(tmp_path / f"digit.{suffix}"), torch.from_numpy(a_digit()))


@pytest.mark.parametrize("exif", [b"Exif\x00\x00MM", b"nonsense", b""])
def test_broken_exif_data_are_ignored(tmp_path: Path, exif: bytes) -> None:
    Image.fromarray(a_digit()).save(tmp_path / "digit.png", exif=exif)
    assert torch.equal(read_digit(tmp_path / "digit.png"), torch.from_numpy(a_digit()))


@pytest.mark.parametrize(
    ("paper", "ink"),
    [(190, 90), (110, 20), (140, 255), (60, 255), (255, 230), (0, 25), (128, 100), (127, 160)],
)
def test_low_contrast_is_stretched(tmp_path: Path, paper: int, ink: int) -> None:
    pixels = paper + (ink - paper) * (a_digit() / 250.0)
    Image.fromarray(pixels.round().astype(np.uint8)).save(tmp_path / "digit.png")
    step = 255 / abs(paper - ink)  # of a grey level, once it is stretched
    full = np.round(a_digit() * (255 / 250)).astype(np.uint8)
    assert difference(read_digit(tmp_path / "digit.png"), full) <= step


Y, X = np.mgrid[-1:1:28j, -1:1:28j]
LIGHTS = {
    "gradient": 160 + 45 * X - 20 * Y,
    "lamp": 200 - 60 * (X**2 + Y**2) / 2,
    "shadow": np.where(X + Y > 0.5, 90.0, 190.0),
    "half": np.where(X > 0.3, 110.0, 200.0),
}


@pytest.mark.parametrize("light", LIGHTS)
@pytest.mark.parametrize("noise", [0, 2])
def test_uneven_light(tmp_path: Path, light: str, noise: int) -> None:
    paper = LIGHTS[light] + np.random.default_rng(0).normal(0, noise, (28, 28))
    pixels = paper - 80 * (a_digit() / 250)
    Image.fromarray(pixels.round().astype(np.uint8)).save(tmp_path / "digit.png")
    warnings: list[str] = []
    image = read_digit(tmp_path / "digit.png", warnings.append).float()
    digit = torch.from_numpy(a_digit()).float()
    assert image[digit > 200].min() > 150
    assert image[digit == 0].max() < 60
    assert len(warnings) == (light in {"shadow", "half"})
    assert all("digit.png: its light is uneven" in text for text in warnings)


def test_bright_ink_on_unevenly_lit_paper(tmp_path: Path) -> None:
    pixels = LIGHTS["shadow"] - 60 + 120 * (a_digit() / 250)
    Image.fromarray(pixels.round().astype(np.uint8)).save(tmp_path / "digit.png")
    image, digit = read_digit(tmp_path / "digit.png").float(), torch.from_numpy(a_digit()).float()
    assert image[digit > 200].min() > 150
    assert image[digit == 0].max() < 60


@pytest.mark.parametrize("paper", [0, 110, 190, 255])
@pytest.mark.parametrize("noise", [0, 1, 10])
def test_an_empty_image_is_black(tmp_path: Path, paper: int, noise: int) -> None:
    grey = paper + np.random.default_rng(1).normal(0, noise, (280, 280))
    Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(tmp_path / "empty.png")
    warnings: list[str] = []
    assert not read_digit(tmp_path / "empty.png", warnings.append).any()
    assert warnings == [
        f"{tmp_path / 'empty.png'}: there is nothing to read in it, it counts as black"
    ]


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 1), (2, 2), (1, 300)])
def test_images_of_a_few_pixels(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "small.png"
    for grey in (0, 255):
        Image.new("L", size, grey).save(path)
        assert read_digit(path).shape[-2:] == (28, 28)
    pixels = np.arange(size[0] * size[1], dtype=np.uint8).reshape(size[::-1]) * 80
    Image.fromarray(pixels).save(path)
    assert read_digit(path).shape[-2:] == (28, 28)


def test_an_animation_is_refused(tmp_path: Path) -> None:
    frames = [Image.new("L", (30, 30), grey) for grey in (0, 255)]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match=r"two\.gif has several frames; save each as a file"):
        read_digit(tmp_path / "two.gif")


def test_contents_of_rare_formats_are_refused() -> None:
    content = io.BytesIO()
    Image.new("L", (30, 30)).save(content, "PCX")
    preprocessing = Preprocessing.of(MnistSource(8).info)
    with pytest.raises(ImageError, match=r"sent cannot be decoded: cannot identify image"):
        preprocessing.read(content.getvalue(), "sent")


def test_ink_that_reaches_the_border_stays(tmp_path: Path) -> None:
    pixels = np.zeros((28, 28), np.uint8)
    pixels[0:4, 3:25] = pixels[4:28, 20:24] = 255  # the bar of a 7 and its foot
    Image.fromarray(255 - pixels).save(tmp_path / "seven.png")
    assert torch.equal(read_digit(tmp_path / "seven.png"), torch.from_numpy(pixels))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(tmp_path: Path, value: float) -> None:
    pixels = a_digit().astype(np.float32)
    pixels[0, 0] = value
    Image.fromarray(pixels).save(tmp_path / "digit.tif")
    assert difference(read_digit(tmp_path / "digit.tif")[1:], a_digit()[1:]) <= 5
    Image.fromarray(np.full((28, 28), value, np.float32)).save(tmp_path / "digit.tif")
    assert not read_digit(tmp_path / "digit.tif").any()


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_more_than_8_bits_are_scaled_and_not_clipped(tmp_path: Path, dtype: str) -> None:
    deep = a_digit().astype(dtype) * (200 if dtype == "uint16" else 0.001)
    Image.fromarray(deep.astype(dtype)).save(tmp_path / "digit.tif")
    expected = np.round(a_digit() * (255 / 250)).astype(np.uint8)
    assert torch.equal(read_digit(tmp_path / "digit.tif"), torch.from_numpy(expected))


@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_large_image_is_placed_as_mnists_are(tmp_path: Path, corner: tuple[int, int]) -> None:
    digit = a_digit()[5:20, 8:20]
    large = np.kron(digit, np.ones((20, 20), np.uint8))
    room = [(300 * side + 40, 340 - 300 * side) for side in corner]
    Image.fromarray(255 - np.pad(large, room)).save(tmp_path / "digit.png")
    told: list[str] = []
    image = read_digit(tmp_path / "digit.png", told.append).numpy().astype(float)
    assert told == []
    rows, columns = (np.flatnonzero(image.max(axis) > 60) for axis in (1, 0))
    assert (len(rows), len(columns)) == (20, 16), "20 rows, and its proportions"
    mass = image.sum()
    centre = [float((image.sum(axis) * np.arange(28)).sum() / mass) for axis in (1, 0)]
    assert centre == pytest.approx([13.5, 13.5], abs=0.51)


DRAWN = 60


def test_drawn_digits_are_placed_without_warning(tmp_path: Path) -> None:
    for path, _ in draw_all(tmp_path, DRAWN):
        told: list[str] = []
        image = read_digit(path, told.append).numpy()
        assert not [text for text in told if "light is uneven" not in text], told
        rows, columns = (np.flatnonzero(image.max(axis) > 100) for axis in (1, 0))
        assert 18 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 20
        assert image.max() == 255


def test_empty_pictures_are_warned_of(tmp_path: Path) -> None:
    for path in draw_empty(tmp_path, 40):
        told: list[str] = []
        read_digit(path, told.append)
        assert told, path


def test_pictures_of_two_digits_are_warned_of(tmp_path: Path) -> None:
    seen = 0
    for path in draw_double(tmp_path, 40):
        told: list[str] = []
        read_digit(path, told.append)
        assert told, path
        seen += any("more than one digit" in text for text in told)
    assert seen >= 38


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("above", "more than one digit"),
        ("joined", "more than one digit"),
        ("cut", "its digit reaches the border"),
    ],
)
def test_what_is_wrong_with_a_picture(tmp_path: Path, name: str, message: str) -> None:
    pixels = np.zeros((200, 200), np.uint8)
    if name == "above":
        pixels[20:80, 90:100] = pixels[110:180, 90:100] = 255
    elif name == "joined":
        pixels[80:130, 20:30] = pixels[80:130, 160:170] = pixels[100:105, 20:170] = 255
    else:
        pixels[80:130, 150:160] = pixels[100:106, 150:200] = 255
    Image.fromarray(255 - pixels).save(tmp_path / "digit.png")
    told: list[str] = []
    read_digit(tmp_path / "digit.png", told.append)
    assert [message in text for text in told] == [True]


def test_a_missing_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png does not exist; give an image file"):
        read_digit(tmp_path / "gone.png")


def test_an_image_that_cannot_be_decoded_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    Image.fromarray(np.arange(784, dtype=np.uint8).reshape(28, 28)).save(tmp_path / "half.png")
    content = (tmp_path / "half.png").read_bytes()
    (tmp_path / "half.png").write_bytes(content[: len(content) // 2])
    for name in ("text.png", "half.png"):
        with pytest.raises(ImageError, match=f"{name} cannot be decoded: .*; give an image file"):
            read_digit(tmp_path / name)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path / "link.png", Path("/dev/zero"), tmp_path):
        with pytest.raises(ImageError, match=r"cannot be read: it is a .*; give a regular file"):
            read_digit(path)


FILES: list[bytes] = []


def pictures() -> list[bytes]:
    """Picture files of several formats."""
    if not FILES:
        for name in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
            buffer = io.BytesIO()
            Image.fromarray(a_digit()).convert("RGB").save(buffer, name)
            FILES.append(buffer.getvalue())
    return FILES


@pytest.mark.slow
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_altered_pictures_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = altered(data, data.draw(st.sampled_from(pictures())))
    path = tmp_path_factory.getbasetemp() / "altered.png"
    path.write_bytes(content)
    with contextlib.suppress(ImageError):
        image = read_digit(path)
        assert (image.shape, image.dtype) == ((28, 28), torch.uint8)
