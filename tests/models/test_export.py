from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image
from torch import Tensor, nn

from crnn_search import __version__
from crnn_search.data.sequences import SequenceTable, draw_table
from crnn_search.errors import ImageError, InputError, ModelFileError, RunError
from crnn_search.hyperparameters import MNIST_CRNN_2016, ModelSpec, TrainingSpec, TrialConfig
from crnn_search.models import export, predictor
from crnn_search.models.predictor import ModelPaths
from crnn_search.storage.run_folder import RunPaths
from crnn_search.training.model import CRNN

SPECS = {
    "2016": MNIST_CRNN_2016.model,
    "embedding": ModelSpec(conv_channels=(4, 6), embedding=20, gru_sizes=(16, 8)),
    "even_kernels": ModelSpec(
        conv_channels=(4, 6), kernel_size=(4, 2), batch_norm=False, gru_sizes=(12,)
    ),
    "pooling_3": ModelSpec(
        conv_channels=(4, 6), kernel_size=(5, 2), pooling=(3, 2), padding="valid", gru_sizes=(12,)
    ),
}
INFO = {"max_digits": 8, "seed": 3}
IMAGES = torch.randint(
    256, (50, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
)
TABLE: SequenceTable = draw_table(torch.arange(50), torch.arange(50) % 10, 120, 8, seed=2)


def network(spec: ModelSpec) -> CRNN:
    """A network whose sums spread over some units and whose batch statistics are not 0 and 1."""
    torch.manual_seed(5)
    model = CRNN(spec)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for value in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                assert value is not None
                nn.init.uniform_(value, 0.2, 1.5)
    nn.init.uniform_(model.output.weight, -10, 10)
    return model.to(memory_format=torch.channels_last).eval()


def write(spec: ModelSpec, folder: Path, *formats: str) -> dict[str, float]:
    config = TrialConfig(spec, TrainingSpec())
    return export.export(network(spec), config, INFO, ModelPaths(folder), formats, IMAGES, TABLE)


def sequences(count: int, steps: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random sequences that are noise beyond their lengths; at least one is full."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, steps, 1, 28, 28, generator=generator)
    lengths = torch.randint(1, steps + 1, (count,), generator=generator)
    lengths[0] = steps
    return images, lengths


Folders = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Gives the folder with a spec's network in all formats; each is exported once."""

    @functools.cache
    def folder_of(name: str) -> Path:
        folder = tmp_path_factory.mktemp("models") / name
        write(SPECS[name], folder, *predictor.FORMATS)
        return folder

    return folder_of


@pytest.fixture(scope="module")
def folder(folder_of: Folders) -> Path:
    """A folder with a network with batch norm, an embedding and two GRUs."""
    return folder_of("embedding")


# PyTorch tells, once a process, that it pads for an even kernel.
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("name", SPECS)
def test_every_format_gives_pytorchs_sums_for_any_batch_and_length(
    folder_of: Folders, name: str
) -> None:
    model = network(SPECS[name])
    for count, steps in ((1, 1), (3, 5), (7, 1), (2, 12)):
        images, lengths = sequences(count, steps)
        with torch.no_grad():
            expected = model(images, lengths)
        for ending in predictor.FORMATS:
            sums = predictor.load(folder_of(name) / f"model.{ending}")(images, lengths)
            assert sums.dtype == torch.float32
            assert not sums.requires_grad
            torch.testing.assert_close(sums, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -1e30])
@pytest.mark.parametrize("name", SPECS)
def test_what_lies_beyond_a_length_has_no_effect(
    folder_of: Folders, name: str, garbage: float
) -> None:
    images, lengths = sequences(5, 6, seed=3)
    spoiled = images.clone()
    spoiled[torch.arange(6)[None, :] >= lengths[:, None]] = garbage
    for ending in predictor.FORMATS:
        predict = predictor.load(folder_of(name) / f"model.{ending}")
        assert torch.equal(predict(spoiled, lengths), predict(images, lengths))


@pytest.fixture(scope="module")
def onnx_predictor(folder: Path) -> predictor.Predictor:
    return predictor.load(folder / "model.onnx")


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    extra=st.integers(0, 7),
    garbage=st.floats(width=32),
    seed=st.integers(0, 1000),
)
def test_a_sequence_has_the_same_sum_alone_and_padded_among_others(
    onnx_predictor: predictor.Predictor, lengths: list[int], extra: int, garbage: float, seed: int
) -> None:
    images, _ = sequences(len(lengths), max(lengths) + extra, seed)
    alone = [
        onnx_predictor(image[None, :length], torch.tensor([length]))
        for image, length in zip(images, lengths, strict=True)
    ]
    for image, length in zip(images, lengths, strict=True):
        image[length:] = garbage
    together = onnx_predictor(images, torch.tensor(lengths))
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


FRESH_PROCESS = """
import sys
import torch
images, lengths = torch.load("batch.pt", weights_only=True)
sums = torch.export.load("model.pt2").module()(images, lengths)
assert not [name for name in sys.modules if name.partition(".")[0] == "crnn_search"]
print(sums.tolist())
"""


def test_a_pt2_runs_in_a_process_without_this_package(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes((folder / "model.pt2").read_bytes())
    images, lengths = sequences(4, 11)
    torch.save((images, lengths), tmp_path / "batch.pt")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FRESH_PROCESS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    expected = network(SPECS["embedding"])(images, lengths).tolist()
    assert json.loads(done.stdout) == pytest.approx(expected, abs=1e-4)


def test_a_pt2_holds_no_pickle(folder: Path) -> None:
    with zipfile.ZipFile(folder / "model.pt2") as archive:
        contents = [archive.read(name) for name in archive.namelist() if "weight_" not in name]
        weights = json.loads(archive.read("model/data/weights/model_weights_config.json"))
    assert not any(content.startswith((b"\x80", b"PK")) for content in contents)
    assert not any(weight["use_pickle"] for weight in weights["config"].values())


def test_the_onnx_file_says_what_it_is(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    config = TrialConfig(SPECS["embedding"], TrainingSpec())
    assert json.loads(metadata["config"]) == config.to_dict()
    assert metadata["max_digits"] == "8"
    assert metadata["crnn_search_version"] == __version__
    assert not any(weight.external_data for weight in model.graph.initializer)


def test_the_folder_explains_itself(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "config.json", "model.onnx", "model.pt2", "model.safetensors"
    }  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    assert config["info"] == INFO
    assert TrialConfig.from_dict(config["config"]).model == SPECS["embedding"]
    assert "sequences of 1 to 8 images" in (folder / "README.md").read_text()


def test_the_readmes_code_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall("```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert "crnn_search" not in code
    monkeypatch.chdir(folder)
    exec(code, {})
    model = network(SPECS["embedding"])
    expected = model(torch.zeros(2, 5, 1, 28, 28), torch.tensor([5, 3])).tolist()
    printed = capsys.readouterr().out.strip("[]\n ").split()
    assert [float(number) for number in printed] == pytest.approx(expected, abs=1e-3)


def test_wrong_gates_are_noticed_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_onnx_gates", lambda weights: weights.unsqueeze(0))
    with pytest.raises(
        RunError, match=r"the onnx file's sums differ from .* by up to \d.*, more than 0\.001"
    ):
        write(SPECS["2016"], tmp_path / "model", "safetensors", "onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("offset", [0.002, float("nan")])
def test_a_refused_export_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: float
) -> None:
    (tmp_path / "model.onnx").write_text("an earlier one")
    monkeypatch.setitem(predictor._READERS, "onnx", shifted(predictor._READERS["onnx"], offset))
    with pytest.raises(RunError, match=r"the onnx file's sums differ .* by up to (0\.002|nan)"):
        write(SPECS["2016"], tmp_path, "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_text() == "an earlier one"


def shifted(
    reader: Callable[[Path], predictor.Predictor], offset: float
) -> Callable[[Path], predictor.Predictor]:
    def read(path: Path) -> predictor.Predictor:
        predictor = reader(path)
        return lambda images, lengths: predictor(images, lengths) + offset

    return read


@pytest.mark.parametrize("formats", [[], ["onnx", "tflite"]])
def test_unknown_formats_are_refused(tmp_path: Path, formats: list[str]) -> None:
    message = f"formats must be one or more of safetensors, onnx, pt2, got {formats}"
    with pytest.raises(InputError, match=re.escape(message)):
        write(SPECS["2016"], tmp_path, *formats)
    assert list(tmp_path.iterdir()) == []


def test_the_largest_difference_of_each_format_is_returned(tmp_path: Path) -> None:
    differences = write(SPECS["2016"], tmp_path, "onnx", "safetensors")
    assert set(differences) == {"onnx", "safetensors"}
    assert all(0 <= difference < 1e-4 for difference in differences.values())


def test_exporting_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    spec = SPECS["even_kernels"]
    model = network(spec).train()
    export.export(
        model, TrialConfig(spec, TrainingSpec()), {}, ModelPaths(tmp_path), ["onnx"], IMAGES, TABLE
    )
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    metadata = onnx.load(tmp_path / "model.onnx").metadata_props
    assert "max_digits" not in [entry.key for entry in metadata]


def test_a_folder_gives_its_safest_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunPaths(tmp_path)
    run.model.mkdir()
    used: list[str] = []
    for name in predictor.FORMATS:
        reader = predictor._READERS[name]
        monkeypatch.setitem(predictor._READERS, name, recorded(reader, used))
    for name in reversed(predictor.FORMATS):
        (run.model / f"model.{name}").write_bytes((folder / f"model.{name}").read_bytes())
        predictor.load(run.root)
        predictor.load(run.model)
        assert used[-2:] == [f"model.{name}"] * 2


def recorded(
    reader: Callable[[Path], predictor.Predictor], used: list[str]
) -> Callable[[Path], predictor.Predictor]:
    def read(path: Path) -> predictor.Predictor:
        used.append(path.name)
        return reader(path)

    return read


def test_a_folder_without_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ModelFileError,
        match=r"has no model: none of model\.safetensors, model\.onnx, model\.pt2 is in it or in",
    ):
        predictor.load(tmp_path)


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"gone\.onnx does not exist; give a model's file"):
        predictor.load(tmp_path / "gone.onnx")


def test_an_unknown_ending_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.h5").touch()
    with pytest.raises(
        ModelFileError, match=r"must end in \.safetensors, \.onnx, \.pt2, got .*model\.h5"
    ):
        predictor.load(tmp_path / "model.h5")


@pytest.mark.parametrize(
    ("name", "kind"), [("safetensors", "safetensors"), ("onnx", "ONNX"), ("pt2", "pt2")]
)
@pytest.mark.parametrize("content", [b"", b"This is no model, but a letter.\n" * 9])
def test_a_file_that_is_no_model_is_refused(
    tmp_path: Path, name: str, kind: str, content: bytes
) -> None:
    path = tmp_path / f"letter.{name}"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=f"truncated, altered or no {kind} file: .") as caught:
        predictor.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", predictor.FORMATS)
def test_a_truncated_model_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    content = (folder / f"model.{name}").read_bytes()
    (tmp_path / f"half.{name}").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelFileError, match=r"half.* is truncated, altered or no"):
        predictor.load(tmp_path / f"half.{name}")


@pytest.mark.parametrize(
    ("inputs", "kind"), [(["x", "lengths"], TensorProto.INT64), (["images", "lengths"], 7)]
)
def test_a_foreign_onnx_model_is_refused(tmp_path: Path, inputs: list[str], kind: int) -> None:
    values = [helper.make_tensor_value_info(name, kind, [1]) for name in [*inputs, "sum"]]
    graph = helper.make_graph(
        [helper.make_node("Add", inputs, ["sum"])], "g", values[:2], values[2:]
    )
    opset = helper.make_opsetid("", 17)
    onnx.save_model(
        helper.make_model(graph, ir_version=8, opset_imports=[opset]), tmp_path / "m.onnx"
    )
    with pytest.raises(
        ModelFileError,
        match=r"must be images tensor\(float\), lengths tensor\(int64\), sum, got .*, sum$",
    ):
        predictor.load(tmp_path / "m.onnx")


class Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_a_foreign_pt2_is_refused(tmp_path: Path) -> None:
    program = torch.export.export(Double(), (torch.ones(3),))
    torch.export.save(program, tmp_path / "pickled.pt2")
    with pytest.raises(ModelFileError, match=r"sample_inputs/model\.pt in it may be a pickle"):
        predictor.load(tmp_path / "pickled.pt2")
    program.example_inputs = None
    torch.export.save(program, tmp_path / "plain.pt2")
    with pytest.raises(ModelFileError, match="must be images, lengths, got x"):
        predictor.load(tmp_path / "plain.pt2")


def test_a_pt2_that_asks_for_unpickling_is_refused(folder: Path, tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(folder / "model.pt2") as archive,
        zipfile.ZipFile(tmp_path / "altered.pt2", "w") as altered,
    ):
        for name in archive.namelist():
            content = archive.read(name).replace(b'"use_pickle": false', b'"use_pickle": true', 1)
            altered.writestr(name, content)
    with pytest.raises(ModelFileError, match=r"model_weights_config\.json in it may be a pickle"):
        predictor.load(tmp_path / "altered.pt2")


@pytest.mark.parametrize("name", predictor.FORMATS)
def test_running_sums_are_the_sums_of_the_prefixes(folder: Path, name: str) -> None:
    predict = predictor.load(folder / f"model.{name}")
    running = predictor.running_sums(predict, IMAGES[:5])
    pixels = IMAGES[:5].float().reshape(1, 5, 1, 28, 28) / 255
    prefixes = [float(predict(pixels[:, :t], torch.tensor([t]))) for t in range(1, 6)]
    assert running == pytest.approx(prefixes, abs=1e-5)


def a_digit() -> npt.NDArray[np.uint8]:
    """White on black, uint8 `(28, 28)`, not symmetric."""
    pixels = np.zeros((28, 28), np.uint8)
    pixels[5:20, 8:12] = 250
    pixels[5:9, 8:20] = 130
    return pixels


def test_an_image_as_mnist_has_them_stays_as_it_is(tmp_path: Path) -> None:
    Image.fromarray(a_digit()).save(tmp_path / "digit.png")
    image = predictor.read_image(tmp_path / "digit.png")
    assert image.dtype == torch.uint8
    assert torch.equal(image, torch.from_numpy(a_digit()))


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "CMYK"])
def test_black_on_white_is_inverted_whatever_the_mode(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("digit.tif" if mode == "CMYK" else "digit.png")
    Image.fromarray(255 - a_digit()).convert(mode).save(path)
    assert torch.equal(predictor.read_image(path), torch.from_numpy(a_digit()))


def test_what_is_transparent_is_white_paper(tmp_path: Path) -> None:
    layers = np.zeros((28, 28, 4), np.uint8)  # black ink of the digit's opacity, on nothing
    layers[..., 3] = a_digit()
    Image.fromarray(layers).save(tmp_path / "digit.png")
    image = predictor.read_image(tmp_path / "digit.png")
    assert torch.equal(image, torch.from_numpy(a_digit()))


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_more_than_8_bits_are_scaled_and_not_cut_off(tmp_path: Path, dtype: str) -> None:
    deep = a_digit().astype(dtype) * (200 if dtype == "uint16" else 0.001)
    Image.fromarray(deep.astype(dtype)).save(tmp_path / "digit.tif")
    expected = np.round(a_digit() * (255 / 250)).astype(np.uint8)
    assert torch.equal(predictor.read_image(tmp_path / "digit.tif"), torch.from_numpy(expected))


def test_a_large_image_is_resized(tmp_path: Path) -> None:
    large = np.kron(a_digit(), np.ones((10, 12), np.uint8))
    Image.fromarray(large).save(tmp_path / "digit.png")
    image = predictor.read_image(tmp_path / "digit.png")
    assert image.shape == (28, 28)
    assert (image.float() - torch.from_numpy(a_digit()).float()).abs().mean() < 8


def test_a_missing_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png does not exist; give an image file"):
        predictor.read_image(tmp_path / "gone.png")


def test_an_image_that_cannot_be_decoded_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    Image.fromarray(IMAGES[0].numpy()).save(tmp_path / "half.png")
    content = (tmp_path / "half.png").read_bytes()
    (tmp_path / "half.png").write_bytes(content[: len(content) // 2])
    for name in ("text.png", "half.png", ""):
        with pytest.raises(ImageError, match=f"{name} cannot be decoded: .*; give an image file"):
            predictor.read_image(tmp_path / name)
