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
from crnn_search.data.digits import Digits
from crnn_search.data.mnist_sums import MnistSums
from crnn_search.data.task_info import TaskInfo
from crnn_search.errors import InputError, RunError
from crnn_search.hyperparameters import ModelSpec, TrainingSpec, TrialConfig
from crnn_search.models import export, onnx_graph, predictor
from crnn_search.models.folder import FORMATS, ModelFolder
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
    IMAGES,
    INFO,
    SPECS,
    SUMS,
    TABLE,
    network,
    one_by_one,
    own_task,
    recording,
    sequences,
    write,
)


def test_onnx_file_has_metadata_and_no_external_data(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    config = TrialConfig(SPECS["embedding"], TrainingSpec())
    assert json.loads(metadata["config"]) == config.to_dict()
    assert TaskInfo.from_dict(json.loads(metadata["task"])) == SUMS
    assert "white on black" in metadata["preprocessing"]
    assert metadata["crnn_search_version"] == __version__
    assert not any(weight.external_data for weight in model.graph.initializer)


def test_folder_has_models_configuration_and_readme(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "config.json", "model.onnx", "model.safetensors"
    }  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    preprocessing = config["info"]["preprocessing"]
    assert (
        "fitted into 20 × 20 pixels, its centre of mass in the centre of 28 × 28" in preprocessing
    )
    assert config["info"] == INFO | {"preprocessing": preprocessing}
    assert TrialConfig.from_dict(config["config"]).model == SPECS["embedding"]
    text = (folder / "README.md").read_text()
    assert "sequences of 1 to 8 images" in text
    assert set(re.findall(r"model\.\w+", text)) == {"model.onnx", "model.safetensors"}


def test_files_state_the_task_and_how_images_are_prepared(folder_of: FolderOf) -> None:
    folder = folder_of("embedding", COLOUR)
    properties = onnx.load(folder / "model.onnx").metadata_props
    metadata = {entry.key: entry.value for entry in properties}
    metadata["task"] = json.loads(metadata["task"])
    for info in (
        json.loads((folder / "config.json").read_text())["info"],
        checkpoint.load_model(folder / "model.safetensors")[2],
        metadata,
    ):
        assert TaskInfo.from_dict(info["task"]) == COLOUR
        assert info["preprocessing"] == (
            "turned as the EXIF data say; 16 bits a channel divided by 257; transparent pixels "
            "white; converted to RGB; resized to 16 × 24 pixels (rows × columns) with the Lanczos "
            "filter, proportions not kept; divided by 255"
        )


def test_readme_of_an_own_task(folder_of: FolderOf) -> None:
    words = " ".join((folder_of("embedding", COLOUR) / "README.md").read_text().split())
    for text in (
        "# A network that predicts `growth` (`µm`)",
        "the data set `clips`, on sequences of 1 to 6 images.",
        "`images`: float32 (B, T, 3, 16, 24), pixels from 0 to 1.",
        "`prediction`: float32 (B,), the predicted `growth` (`µm`), not standardised.",
        "prepares them so: - turned as the EXIF data say - 16 bits a channel",
        "- converted to RGB - resized to 16 × 24 pixels (rows × columns) with the Lanczos filter,",
    ):
        assert text in words
    assert not re.search(r"(?i)digit|sum|mnist", words)
    text = (folder_of("embedding", GREY) / "README.md").read_text()
    assert text.startswith("# A network that predicts `pressure`\n")
    assert "converted to grey" in text


def test_odd_names_do_not_break_the_readme() -> None:
    task = replace(COLOUR, name="# `a`\n# b", target="<b>`*x*`\n\n# y", unit="`\x1b[31m")
    lines = readme(TrialConfig(SPECS["2016"], TrainingSpec()), task).splitlines()
    assert lines[0] == "# A network that predicts `<b>'*x*'` (`'\\x1b[31m`)"
    headings = [line for line in lines if line.startswith("#")]
    assert headings[1:] == ["## Contract", "## Use", "## Files"]


@pytest.mark.parametrize("task", [SUMS, COLOUR, GREY], ids=lambda task: task.name)
def test_readme_code_runs(
    folder_of: FolderOf,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    task: TaskInfo,
) -> None:
    folder = folder_of("embedding", task)
    (code,) = re.findall("```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert "crnn_search" not in code
    monkeypatch.chdir(folder)
    exec(code, {})
    images, lengths = torch.zeros(2, 5, *task.shape), torch.tensor([5, 3])
    expected = one_by_one(network(SPECS["embedding"], task), images, lengths).tolist()
    printed = capsys.readouterr().out.strip("[]\n ").split()
    found = [float(number) for number in printed]
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-3 * task.scale)


def test_wrong_gates_are_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_graph, "_gates", lambda weights: weights.unsqueeze(0))
    with pytest.raises(
        RunError, match=r"the onnx file's predictions differ from .* up to \d.*, more than 0\.001"
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
        RunError, match=r"the onnx file's predictions differ .* by up to (0\.002|nan)"
    ):
        write(SPECS["2016"], tmp_path, "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_text() == "an earlier one"


def shifted(
    reader: Callable[[Path], predictor.Predictor], offset: float
) -> Callable[[Path], predictor.Predictor]:
    def read(path: Path) -> predictor.Predictor:
        predictor = reader(path)
        return replace(predictor, predictions=lambda *inputs: predictor(*inputs) + offset)

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
    spec, info = SPECS["pooling_3"], {"task": SUMS.to_dict()}
    model = export.TrainedModel(network(spec).train(), TrialConfig(spec, TrainingSpec()), info)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    export.export(model, ModelFolder(tmp_path), ["onnx"], IMAGES, TABLE)
    assert model.network.training
    assert all(parameter.requires_grad for parameter in model.network.parameters())
    after = model.network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert info == {"task": SUMS.to_dict()}


def retrained(root: Path, network: CRNN, config: TrialConfig, task: TaskInfo) -> RunFolder:
    """A run whose winner is this network."""
    run = RunFolder(root)
    path = run.retrained_models / "first.safetensors"
    checkpoint.save_model(path, network, config, {"task": task.to_dict()})
    entries = [{"file": "retrained/first.safetensors"}, {"file": "retrained/second.safetensors"}]
    write_json(run.retrained, {"winner": entries})
    stages.record(run, stages.RETRAIN, [run.retrained, path])
    return run


def test_a_run_exports_its_winner_of_the_first_seed(
    tmp_path: Path, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "TEST_SEQUENCES", 1200)
    model, config = network(SPECS["embedding"]), TrialConfig(SPECS["embedding"], TrainingSpec())
    run = retrained(tmp_path, model, config, SUMS)
    task = MnistSums(digits, max_digits=8)
    assert len(export.check_table(task)) == 1000
    assert set(export.export_winner(run, ["onnx"], task)) == {"onnx"}
    images, lengths = sequences(2, 3)
    sums = predictor.load(run.root)(images, lengths)
    torch.testing.assert_close(sums, one_by_one(model, images, lengths), rtol=0, atol=1e-4)


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
    export.export_winner(run, ["onnx"], task)
    session = onnxruntime.InferenceSession(run.model / "model.onnx")
    images, lengths = (value.name for value in session.get_inputs())
    (output,) = (value.name for value in session.get_outputs())
    assert (images, lengths, output) == ("images", "lengths", "prediction")
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
    export.export_winner(run, ["onnx"], task)
    assert sum(shape[0] for shape in shapes) == len(table)
    assert max(shape[0] * shape[1] for shape in shapes) <= 30
    monkeypatch.setattr(export, "EXPORT_CHECK_PIXELS", 0)
    assert len(export.check_table(task)) == 1
