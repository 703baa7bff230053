"""What an export writes, checks and refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from crnn_search import __version__
from crnn_search.data import digits as tables
from crnn_search.data.arrays import read_npz
from crnn_search.data.digits import Digits
from crnn_search.data.mnist_sums import MnistSums
from crnn_search.data.task_info import TaskInfo
from crnn_search.errors import InputError, RunError
from crnn_search.hyperparameters import ModelSpec, TrainingSpec, TrialConfig
from crnn_search.models import export, onnx_graph, predictor
from crnn_search.models.folder import FORMATS, ModelFolder
from crnn_search.models.info import ModelInfo
from crnn_search.models.pixel_ranges import PixelRanges
from crnn_search.models.readme import readme
from crnn_search.storage import stages
from crnn_search.storage.files import write_json
from crnn_search.storage.run_folder import RunFolder
from crnn_search.training import checkpoint, engine
from crnn_search.training.model import CRNN
from tests.models.conftest import FolderOf
from tests.models.networks import (
    COLOUR,
    GREY,
    SPECS,
    SUMS,
    TABLE,
    examples_of,
    images_of,
    info_of,
    network,
    one_by_one,
    own_task,
    predict,
    recording,
    sequences,
    write,
)


def metadata_of(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def test_onnx_file_has_metadata_and_no_external_data(folder: Path) -> None:
    metadata = metadata_of(folder / "model.onnx")
    info = info_of(SPECS["embedding"])
    assert json.loads(metadata["config"]) == info.config.to_dict()
    assert json.loads(metadata["info"]) == info.to_dict()
    assert metadata["crnn_search_version"] == __version__
    model = onnx.load(folder / "model.onnx")
    assert not any(weight.external_data for weight in model.graph.initializer)


def test_folder_has_models_configuration_and_readme(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "config.json", "example.npz", "model.onnx", "model.safetensors"
    }  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    info = info_of(SPECS["embedding"])
    assert config == {"config": info.config.to_dict(), "info": info.to_dict()}
    assert config["info"]["preprocessing"]["placement"] == {"box": 20, "stroke": 3.0, "blur": 0.5}
    text = (folder / "README.md").read_text()
    assert "sequences of 1 to 8 images" in text
    assert set(re.findall(r"(?:model|ensemble)\.(?:onnx|safe\w+)", text)) == {
        "model.onnx",
        "model.safetensors",
    }


def test_files_state_all_that_is_known(folder_of: FolderOf, tmp_path: Path) -> None:
    spec = SPECS["embedding"]
    info = replace(
        info_of(spec, COLOUR),
        pixels=PixelRanges.of(images_of(COLOUR.shape).numpy()),
        metrics=METRICS,
        training={"seed": 3, "git_commit": "abc"},
    )
    model = export.TrainedModel(network(spec, COLOUR), info)
    export.export(model, ModelFolder(tmp_path), FORMATS, examples_of(COLOUR))
    for name in FORMATS:
        assert predictor.load(tmp_path / f"model.{name}").info == info
    values = json.loads((tmp_path / "config.json").read_text())
    assert ModelInfo.from_dict(info.config, values["info"]) == info
    assert info.preprocessing.describe() == [
        "turned as the EXIF data say",
        "16 bits a channel divided by 257",
        "transparent pixels white",
        "converted to RGB",
        "resized to 16 × 24 pixels (rows × columns) with the Lanczos filter, proportions not kept",
        "divided by 255",
    ]


METRICS = {
    "sequences": 1200, "rmse": 0.6254, "rmse_interval": [0.5, 0.75], "mae": 0.25, "r2": 0.99,
    "rmse_by_length": {"1": 0.2, "2–6": 0.7},
    "rmse_interval_by_length": {"1": None, "2–6": [0.6, 0.8]},
    "mae_by_length": {"1": 0.1, "2–6": 0.3},
    "baseline_rmse": {"mean_guess": 11.85},
}  # fmt: skip


def test_an_ensemble_is_the_mean_of_its_networks(tmp_path: Path) -> None:
    spec = SPECS["2016"]
    networks = [network(spec) for _ in range(3)]
    for seed, other in enumerate(networks[1:]):
        torch.manual_seed(seed)
        torch.nn.init.normal_(other.output.weight)
    info = replace(info_of(spec), metrics=METRICS)
    whole = replace(info, networks=3, metrics=METRICS | {"rmse": 0.5432})
    model = export.TrainedModel(networks[0], info, (networks, whole))
    found = export.export(model, ModelFolder(tmp_path), FORMATS, examples_of(SUMS))
    assert found.keys() == {"safetensors", "onnx", "ensemble"}
    images, lengths = sequences(4, 6)
    each = torch.stack([one_by_one(one, images, lengths) for one in networks])
    assert each.std(0).min() > 0.01
    ensemble = predictor.load(tmp_path / "ensemble.onnx")
    assert ensemble.info == whole
    mean = predict(ensemble, images, lengths)
    torch.testing.assert_close(mean, each.mean(0), rtol=0, atol=1e-4)
    one = predict(predictor.load(tmp_path / "model.onnx"), images, lengths)
    torch.testing.assert_close(one, each[0], rtol=0, atol=1e-4)
    text = (tmp_path / "README.md").read_text()
    assert "| RMSE | 0.6254 (0.5 to 0.75) | 0.5432 (0.5 to 0.75) |" in text
    assert "the mean of 3 networks that differ in their seed" in text
    assert "takes 3 times the time and the space" in text


def test_example_of_an_own_task_are_its_first_sequences(folder_of: FolderOf) -> None:
    for task in (COLOUR, GREY):
        data = read_npz(folder_of("embedding", task) / "example.npz")
        np.testing.assert_array_equal(np.asarray(data.lengths), TABLE.lengths[:3])
        np.testing.assert_array_equal(np.asarray(data.targets), TABLE.targets[:3])
        images = images_of(task.shape)[TABLE.indices[:3].long()].numpy()
        np.testing.assert_array_equal(data.pixels(), images)


def test_readme_of_an_own_task(folder_of: FolderOf) -> None:
    words = " ".join((folder_of("embedding", COLOUR) / "README.md").read_text().split())
    for text in (
        "# A network that predicts `growth` (`µm`)",
        "the data set `clips`, on sequences of 1 to 6 images:",
        "`images`: float32 (B, T, 3, 16, 24), pixels from 0 to 1;",
        "`prediction`: float32 (B,), the predicted `growth` (`µm`), not standardised.",
        "metadata says: - turned as the EXIF data say - 16 bits a channel",
        "- converted to RGB - resized to 16 × 24 pixels (rows × columns) with the Lanczos filter,",
    ):
        assert text in words
    assert not re.search(r"(?i)digit|sum|mnist", words)
    text = (folder_of("embedding", GREY) / "README.md").read_text()
    assert text.startswith("# A network that predicts `pressure`\n")
    assert "converted to grey" in text


def test_odd_names_do_not_break_the_readme() -> None:
    task = replace(COLOUR, name="# `a`\n# b", target="<b>`*x*`\n\n# y", unit="`\x1b[31m")
    spec = SPECS["2016"]
    lines = readme(network(spec, task), info_of(spec, task)).splitlines()
    assert lines[0] == "# A network that predicts `<b>'*x*'` (`'\\x1b[31m`)"
    headings = [line for line in lines if line.startswith("#")]
    assert headings[1:] == ["## Results", "## Contract", "## Use", "## Files", "## Weights"]


@pytest.mark.parametrize("task", [SUMS, COLOUR, GREY], ids=lambda task: task.name)
def test_readme_code_runs(
    folder_of: FolderOf,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    task: TaskInfo,
) -> None:
    folder = folder_of("embedding", task)
    codes = re.findall("```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert ["crnn_search" in code for code in codes] == [False, True]
    with np.load(folder / "example.npz") as example:
        pixels, lengths = example["images"], torch.from_numpy(example["lengths"])
        targets = example["targets"]
    pixels = pixels[:, :, None] if pixels.ndim == 4 else np.moveaxis(pixels, -1, 2)
    images = torch.from_numpy(pixels).float() / 255
    expected = one_by_one(network(SPECS["embedding"], task), images, lengths).tolist()
    monkeypatch.chdir(folder)
    for code in codes:
        exec(code, {})
        printed = re.findall(r"[-\d.e+]+", capsys.readouterr().out)
        found = [float(number) for number in printed]
        wanted = pytest.approx([*expected, *targets], rel=1e-5, abs=1e-3 * task.scale)
        assert found == wanted


def test_wrong_gates_are_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_graph, "_gates", lambda weights: weights.unsqueeze(0))
    with pytest.raises(
        RunError,
        match=r"the predictions of model\.onnx differ from .* up to \d.*, more than 0\.001",
    ):
        write(SPECS["2016"], tmp_path / "model", "safetensors", "onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("offset", [0.002, float("nan")])
def test_a_refused_export_leaves_earlier_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: float
) -> None:
    (tmp_path / "model.onnx").write_text("an earlier one")
    monkeypatch.setitem(predictor._READERS, "onnx", shifted(predictor._READERS["onnx"], offset))
    with pytest.raises(
        RunError, match=r"the predictions of model\.onnx differ .* by up to (0\.002|nan)"
    ):
        write(SPECS["2016"], tmp_path, "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_text() == "an earlier one"


def shifted(
    reader: Callable[[Path], predictor.Predictor], offset: float
) -> Callable[[Path], predictor.Predictor]:
    def read(path: Path) -> predictor.Predictor:
        predictor = reader(path)
        function = predictor.function
        return replace(predictor, function=lambda *inputs: function(*inputs) + np.float32(offset))

    return read


@pytest.mark.parametrize(("offset", "allowed"), [(190.0, True), (210.0, False)])
def test_a_thousandth_of_the_standard_deviation_may_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: float, allowed: bool
) -> None:
    monkeypatch.setitem(predictor._READERS, "onnx", shifted(predictor._READERS["onnx"], offset))
    if allowed:
        assert write(SPECS["2016"], tmp_path, "onnx", task=COLOUR)["onnx"] == pytest.approx(
            190, abs=5
        )
        return
    with pytest.raises(RunError, match=r"by up to 2\d\d, more than 200; no file was written"):
        write(SPECS["2016"], tmp_path, "onnx", task=COLOUR)


def test_a_target_that_float32_cannot_resolve_is_exported(tmp_path: Path) -> None:
    task = replace(COLOUR, center=1e9, scale=1.0)  # float32 has steps of 64 there
    differences = write(SPECS["2016"], tmp_path, *FORMATS, task=task)
    assert max(differences.values()) <= 64


@pytest.mark.parametrize("formats", [[], ["onnx", "pt2"]])
def test_unknown_formats_are_refused(tmp_path: Path, formats: list[str]) -> None:
    message = f"formats must be one or more of safetensors, onnx, got {formats}"
    with pytest.raises(InputError, match=re.escape(message)):
        write(SPECS["2016"], tmp_path, *formats)
    assert list(tmp_path.iterdir()) == []


def test_export_returns_the_largest_difference_of_each_format(tmp_path: Path) -> None:
    differences = write(SPECS["2016"], tmp_path, "onnx", "safetensors")
    assert set(differences) == {"onnx", "safetensors"}
    assert all(0 <= difference < 1e-4 for difference in differences.values())


def test_export_does_not_change_the_network(tmp_path: Path) -> None:
    spec = SPECS["pooling_3"]
    model = export.TrainedModel(network(spec).train(), info_of(spec))
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    export.export(model, ModelFolder(tmp_path), ["onnx"], examples_of(SUMS))
    assert model.network.training
    assert all(parameter.requires_grad for parameter in model.network.parameters())
    after = model.network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def retrained(root: Path, network: CRNN, config: TrialConfig, task: TaskInfo) -> RunFolder:
    """A run whose winner is this network."""
    run = RunFolder(root)
    path = run.retrained_models / "first.safetensors"
    checkpoint.save_model(path, network, config, {"task": task.to_dict()})
    other = run.retrained_models / "second.safetensors"
    with torch.no_grad():
        network.output.bias.add_(2 * task.scale)
        checkpoint.save_model(other, network, config, {"task": task.to_dict()})
        network.output.bias.sub_(2 * task.scale)
    entries = [{"file": f"retrained/{file.name}"} for file in (path, other)]
    write_json(run.retrained, {"winner": entries})
    stages.record(run, stages.RETRAIN, [run.retrained, path, other])
    return run


def test_a_run_exports_its_winner_of_the_first_seed(
    tmp_path: Path, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "TEST_SEQUENCES", 120)
    monkeypatch.setattr(export, "EXPORT_CHECK_SEQUENCES", 100)
    model, config = network(SPECS["embedding"]), TrialConfig(SPECS["embedding"], TrainingSpec())
    run = retrained(tmp_path, model, config, SUMS)
    task = MnistSums(digits, max_digits=8)
    assert len(export.check_table(task)) == 100
    metrics = {"model": METRICS, "ensemble": METRICS | {"rmse": 0.5}}
    assert set(export.export_winner(run, ["onnx"], task, metrics)) == {"onnx", "ensemble"}
    images, lengths = sequences(2, 3)
    winner, ensemble = predictor.load(run.root), predictor.load(run.model / "ensemble.onnx")
    expected = one_by_one(model, images, lengths)
    torch.testing.assert_close(predict(winner, images, lengths), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(predict(ensemble, images, lengths), expected + 1, rtol=0, atol=1e-4)
    assert (winner.info.networks, winner.info.metrics["rmse"]) == (1, 0.6254)
    assert (ensemble.info.networks, ensemble.info.metrics["rmse"]) == (2, 0.5)
    assert winner.info.pixels is not None
    low, high = winner.info.pixels.mean
    assert low < task.images[: tables.TRAINING_IMAGES].float().mean() / 255 < high


SMALL = TrialConfig(
    ModelSpec(conv_channels=(4, 6), gru_sizes=(12,)),
    TrainingSpec(max_sequence_length=6, batch_size=32, learning_rate=0.02),
)


@pytest.mark.parametrize("info", [COLOUR, GREY], ids=lambda task: task.name)
def test_a_trained_network_is_scored_in_the_unit_without_this_package(
    tmp_path: Path, info: TaskInfo
) -> None:
    """By a program that knows the file alone."""
    task = own_task(info)
    state = engine.start(SMALL, seed=1, epochs=10, device=torch.device("cpu"), shape=info.shape)
    data = engine.TrainingData(task, task.validation_table(), epoch_sequences=1000)
    for _ in range(10):
        reported = engine.train_epoch(state, data).validation_rmse
    assert reported is not None
    state.model.scale_output(task.info.center, task.info.scale)
    run = retrained(tmp_path, state.model, SMALL, task.info)
    export.export_winner(run, ["onnx"], task, {})
    session = onnxruntime.InferenceSession(run.model / "model.onnx")
    images, lengths = (value.name for value in session.get_inputs())
    output, running = (value.name for value in session.get_outputs())
    assert (images, lengths, output, running) == (
        "images", "lengths", "prediction", "running_prediction"
    )  # fmt: skip
    table = task.validation_table()
    pixels = task.images.numpy()[table.indices.numpy()] / np.float32(255)
    inputs = {images: pixels, lengths: table.lengths.numpy()}
    (predictions,) = session.run([output], inputs)
    targets = table.targets.numpy()
    rmse = np.sqrt(np.mean((predictions.astype(np.float64) - targets) ** 2))
    assert rmse == pytest.approx(reported, rel=1e-3)
    assert rmse < targets.std() / 2


def test_exported_files_are_checked_on_few_pixels_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = 16 * 24
    task = own_task(COLOUR, sequences=60, longest=40)
    assert len(export.check_table(task)) == 10  # all
    monkeypatch.setattr(predictor, "CHUNK_PIXELS", 30 * pixels)
    monkeypatch.setattr(export, "EXPORT_CHECK_PIXELS", 100 * pixels)
    test, table = task.testing_table(), export.check_table(task)
    assert 1 <= len(table) < len(test)
    assert table.lengths.sum() <= 100
    assert torch.equal(table.lengths, test.lengths[: len(table)].clamp(max=30))
    assert test.lengths.max() > 30
    shapes: list[tuple[int, ...]] = []
    reader = predictor._READERS["onnx"]
    monkeypatch.setitem(predictor._READERS, "onnx", lambda path: recording(reader(path), shapes))
    spec = SPECS["embedding"]
    run = retrained(
        tmp_path, network(spec, task.info), TrialConfig(spec, TrainingSpec()), task.info
    )
    export.export_winner(run, ["onnx"], task, {})
    assert sum(shape[0] for shape in shapes) == 2 * len(table)  # of model.onnx and the ensemble
    assert max(shape[0] * shape[1] for shape in shapes) <= 30
    monkeypatch.setattr(export, "EXPORT_CHECK_PIXELS", 0)
    assert len(export.check_table(task)) == 1
