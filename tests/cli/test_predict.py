"""predict: digits, and pictures of own data."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crnn_search.data.task_info import TaskInfo
from crnn_search.hyperparameters import ImageShape, ModelSpec, TrainingSpec, TrialConfig
from crnn_search.training import checkpoint
from crnn_search.training.model import CRNN
from tests.cli.conftest import CommandLine, Done
from tests.models.networks import COLOUR, SUMS

SMALL = TrialConfig(ModelSpec(conv_channels=(2,), gru_sizes=(4,)), TrainingSpec())


def test_predict_refuses_other_files(crnn_search: CommandLine, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    Image.new("L", (28, 28)).save(image)
    for name, content in (("a.onnx", b"no model"), ("b.safetensors", b"x"), ("c.txt", b"hello")):
        path = tmp_path / name
        path.write_bytes(content)
        done = crnn_search("predict", str(path), str(image))
        assert done.code == 2
        assert name in done.err


def listed(names: bytes) -> io.TextIOWrapper:
    """Standard input with names of files."""
    return io.TextIOWrapper(io.BytesIO(names), "utf-8", "strict")


def constant_model(path: Path, task: TaskInfo, value: float) -> Path:
    """A model that always predicts `value`."""
    network = CRNN(SMALL.model, task.shape)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.output.bias.fill_(value)
    checkpoint.save_model(path, network, SMALL, {"task": task.to_dict()})
    return path


def test_predict_refuses_a_model_of_other_images(crnn_search: CommandLine, tmp_path: Path) -> None:
    task = replace(SUMS, shape=ImageShape(3, 32, 40))
    model, image = constant_model(tmp_path / "m.safetensors", task, 0), tmp_path / "image.png"
    Image.new("L", (28, 28)).save(image)
    done = crnn_search("predict", str(model), str(image))
    assert (done.code, done.out) == (2, "")
    assert "images must have the shape (B, T, 3, 32, 40), got (1, 1, 1, 32, 32)" in done.err


def test_predict_reads_images(crnn_search: CommandLine, tmp_path: Path) -> None:
    model = constant_model(tmp_path / "model.safetensors", SUMS, 0)
    image, broken = tmp_path / "image.png", tmp_path / "broken.png"
    Image.new("L", (28, 28)).save(image)
    broken.write_bytes(b"no picture")
    done = crnn_search("predict", str(model), str(image), str(image))
    assert (done.code, done.out) == (0, f"{image}: 0.00\n" * 2 + "sum: 0.00\n")
    nothing = f"warning: {image}: there is nothing to read in it, it counts as black\n"
    assert done.err == nothing * 2
    for path in (broken, tmp_path / "missing.png"):
        done = crnn_search("predict", str(model), str(image), str(path))
        assert done.code == 2
        assert path.name in done.err


@pytest.mark.parametrize(
    ("unit", "scale", "value", "printed"),
    [
        ("mm", 1.0, 12.3456, "12.35 mm"),
        (None, 1.0, 12.3456, "12.35"),
        ("µm", 2e5, 5.25e6, "5250000 µm"),
        ("V", 1e-6, -3.25e-6, "-0.00000325 V"),
        ("m/s", 30.0, 99.96, "100.0 m/s"),
    ],
)
def test_predict_prints_an_own_target_in_its_unit(
    crnn_search: CommandLine, tmp_path: Path, unit: str | None, scale: float, value: float,
    printed: str,
) -> None:  # fmt: skip
    """To a hundredth of its standard deviation."""
    task = replace(COLOUR, unit=unit, scale=scale)
    model, image = constant_model(tmp_path / "m.safetensors", task, value), tmp_path / "a.png"
    Image.new("RGB", (24, 16)).save(image)
    done = crnn_search("predict", str(model), *[str(image)] * 3)
    assert done == Done(0, f"{image}: {printed}\n" * 3 + f"growth: {printed}\n", "")


def test_predict_notes_images_that_it_resized(crnn_search: CommandLine, tmp_path: Path) -> None:
    model = constant_model(tmp_path / "m.safetensors", COLOUR, 5e6)
    fits, large, small = (tmp_path / f"{name}.png" for name in ("fits", "large", "small"))
    for path, size in ((fits, (24, 16)), (large, (640, 480)), (small, (3, 2))):
        Image.new("L", size).save(path)
    done = crnn_search("predict", str(model), str(fits), str(large), str(small))
    assert (done.code, len(done.out.splitlines())) == (0, 4)
    assert done.err == (
        "note: 2 of 3 images were resized to 16 × 24 pixels (rows × columns); the first was "
        f"{large}, 480 × 640\n"
    )


def test_predict_refuses_pictures(crnn_search: CommandLine, tmp_path: Path) -> None:
    model = constant_model(tmp_path / "m.safetensors", COLOUR, 0)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    frames = [Image.new("L", (8, 8), value) for value in (0, 255)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    for name, reason in (
        ("broken.png", "cannot be decoded: "),
        ("film.gif", "has several frames"),
        ("gone.png", "does not exist"),
    ):
        done = crnn_search("predict", str(model), str(tmp_path / name))
        assert (done.code, done.out) == (2, "")
        assert f"{tmp_path / name} {reason}" in done.err
        assert "give an image file such as a PNG (the model takes 16 × 24 pixels in" in done.err


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    """A model that always predicts 3.25, trained on up to 8 digits."""
    return constant_model(tmp_path / "sums.safetensors", SUMS, 3.25)


def pictures(folder: Path, *names: str) -> list[Path]:
    """Pictures of a 1."""
    folder.mkdir(exist_ok=True)
    image = Image.new("L", (40, 40), 255)
    image.paste(0, (18, 8, 22, 32))
    for name in names:
        image.save(folder / name)
    return [folder / name for name in names]


def test_folders_and_patterns_are_in_the_order_of_numbers(
    crnn_search: CommandLine, tmp_path: Path, sums: Path
) -> None:
    folder = tmp_path / "pictures"
    paths = pictures(folder, "page_2.png", "page_9.png", "page_10.jpg")
    (folder / "notes.txt").write_text("no picture")
    for argument in (str(folder), str(folder / "page_*"), str(folder / "*[gp]")):
        done = crnn_search("predict", str(sums), argument)
        assert (done.code, done.err) == (0, "")
        assert [line.split(": ")[0] for line in done.out.splitlines()] == [*map(str, paths), "sum"]


def test_standard_input_may_list_files(
    crnn_search: CommandLine, tmp_path: Path, sums: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = pictures(tmp_path, "a.png", "b c.png", "d.png")
    monkeypatch.setattr("sys.stdin", listed(f"{second}\n\n{third}\r\n".encode()))
    done = crnn_search("predict", str(sums), str(first), "-")
    monkeypatch.setattr("sys.stdin", listed(b"none-\xff.png\n"))  # a name that is not UTF-8
    gone = crnn_search("predict", str(sums), "-")
    assert gone.code == 2
    assert "does not exist" in gone.err
    assert done.out == f"{first}: 3.25\n{second}: 3.25\n{third}: 3.25\nsum: 3.25\n"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("-", "standard input must list image files, one a line, got none"),
        ("empty", "empty has no image files (.png, .jpg"),
        ("none_*.png", "no file matches the pattern none_*.png"),
        ("a**.png", "a**.png is no valid pattern: Invalid pattern: '**' can only be an entire"),
        ("gone.png", "gone.png does not exist; give an image file such as a PNG"),
    ],
)
def test_arguments_that_give_no_file_are_refused(
    crnn_search: CommandLine, tmp_path: Path, sums: Path, monkeypatch: pytest.MonkeyPatch,
    argument: str, message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr("sys.stdin", listed(b"\n"))
    done = crnn_search("predict", str(sums), argument)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_json_has_the_running_predictions_and_warnings(
    crnn_search: CommandLine, tmp_path: Path, sums: Path
) -> None:
    (one,) = pictures(tmp_path, "one.png")
    Image.new("L", (40, 40), 255).save(empty := tmp_path / "empty.png")
    done = crnn_search("predict", str(sums), "--json", str(one), str(empty))
    nothing = "there is nothing to read in it, it counts as black"
    assert json.loads(done.out) == {
        "files": [str(one), str(empty)],
        "prediction": 3.25,
        "running": [3.25, 3.25],
        "warnings": [{"kind": "empty", "message": nothing, "file": str(empty), "position": 1}],
    }
    assert done.err == f"warning: {empty}: {nothing}\n"


def test_strict_takes_warnings_for_errors(
    crnn_search: CommandLine, tmp_path: Path, sums: Path
) -> None:
    (one,) = pictures(tmp_path, "one.png")
    Image.new("L", (40, 40), 255).save(empty := tmp_path / "empty.png")
    done = crnn_search("predict", str(sums), "--strict", *[str(one)] * 8, str(empty))
    assert (done.code, done.out) == (2, "")
    assert f"{empty}: there is nothing to read in it" in done.err
    assert "the sequence has 9 images, more than any of training: 8" in done.err
    assert crnn_search("predict", str(sums), "--strict", *[str(one)] * 8).code == 0


def test_pictures_of_the_images_and_of_what_the_network_sees(
    crnn_search: CommandLine, tmp_path: Path, sums: Path
) -> None:
    paths = pictures(tmp_path, *(f"{number}.png" for number in range(10)))
    plot, show = tmp_path / "plot.png", tmp_path / "show.png"
    options = ("--plot", str(plot), "--show", str(show))
    assert crnn_search("predict", str(sums), *options, *map(str, paths)).code == 0
    with Image.open(show) as seen:
        assert seen.size == (8 * 120 + 8, 2 * 138 + 8)
        ink = np.asarray(seen.convert("L"))[8:120, 8:120]
        assert (ink.min(), ink.max()) == (0, 255)
        assert 0.02 < (ink > 128).mean() < 0.3  # white on black, as the network sees it
    with Image.open(plot) as drawn:
        assert drawn.size[0] > 10 * 56
    done = crnn_search(
        "predict", str(sums), "--show", str(tmp_path / "no" / "a.png"), str(paths[0])
    )
    assert done.code != 0
    assert f"cannot write {tmp_path / 'no' / 'a.png'}" in done.err


def test_a_plot_is_a_png(crnn_search: CommandLine, tmp_path: Path) -> None:
    """Of a photograph, too, whose JPEG would be smaller."""
    model = constant_model(tmp_path / "m.safetensors", COLOUR, 5e6)
    noise = torch.randint(256, (16, 24, 3), generator=torch.Generator().manual_seed(0))
    Image.fromarray(noise.to(torch.uint8).numpy()).save(tmp_path / "a.png")
    plot = tmp_path / "plot.png"
    assert (
        crnn_search("predict", str(model), str(tmp_path / "a.png"), "--plot", str(plot)).code == 0
    )
    with Image.open(plot) as sheet:
        assert sheet.format == "PNG"
