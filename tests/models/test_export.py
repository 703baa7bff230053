"""What an export writes, checks and refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch

from crnn_search import __version__
from crnn_search.data import sequences as tables
from crnn_search.data.sequences import Digits
from crnn_search.errors import InputError, RunError
from crnn_search.hyperparameters import TrainingSpec, TrialConfig
from crnn_search.models import export, onnx_graph, predictor
from crnn_search.models.folder import ModelFolder
from crnn_search.storage import stages
from crnn_search.storage.files import write_json
from crnn_search.storage.run_folder import RunFolder
from crnn_search.training import checkpoint
from tests.models.networks import (
    IMAGES,
    INFO,
    SPECS,
    TABLE,
    network,
    sequences,
    sums_one_by_one,
    write,
)


def test_onnx_file_has_metadata_and_no_external_data(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    config = TrialConfig(SPECS["embedding"], TrainingSpec())
    assert json.loads(metadata["config"]) == config.to_dict()
    assert metadata["max_digits"] == "8"
    assert metadata["crnn_search_version"] == __version__
    assert not any(weight.external_data for weight in model.graph.initializer)


def test_folder_has_models_configuration_and_readme(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "config.json", "model.onnx", "model.safetensors"
    }  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    assert config["info"] == INFO
    assert TrialConfig.from_dict(config["config"]).model == SPECS["embedding"]
    readme = (folder / "README.md").read_text()
    assert "sequences of 1 to 8 images" in readme
    assert set(re.findall(r"model\.\w+", readme)) == {"model.onnx", "model.safetensors"}


def test_readme_code_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall("```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert "crnn_search" not in code
    monkeypatch.chdir(folder)
    exec(code, {})
    images, lengths = torch.zeros(2, 5, 1, 28, 28), torch.tensor([5, 3])
    expected = sums_one_by_one(network(SPECS["embedding"]), images, lengths).tolist()
    printed = capsys.readouterr().out.strip("[]\n ").split()
    assert [float(number) for number in printed] == pytest.approx(expected, abs=1e-3)


def test_wrong_gates_are_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_graph, "_gates", lambda weights: weights.unsqueeze(0))
    with pytest.raises(
        RunError, match=r"the onnx file's sums differ from .* by up to \d.*, more than 0\.001"
    ):
        write(SPECS["2016"], tmp_path / "model", "safetensors", "onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("offset", [0.002, float("nan")])
def test_a_refused_export_leaves_earlier_files(
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
        return replace(predictor, sums=lambda *inputs: predictor(*inputs) + offset)

    return read


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
    model = export.TrainedModel(network(spec).train(), TrialConfig(spec, TrainingSpec()))
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    export.export(model, ModelFolder(tmp_path), ["onnx"], IMAGES, TABLE)
    assert model.network.training
    assert all(parameter.requires_grad for parameter in model.network.parameters())
    after = model.network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    metadata = onnx.load(tmp_path / "model.onnx").metadata_props
    assert "max_digits" not in [entry.key for entry in metadata]


def test_a_run_exports_its_winner_of_the_first_seed(
    tmp_path: Path, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "TEST_SEQUENCES", 1200)
    run, spec = RunFolder(tmp_path), SPECS["embedding"]
    path, model = run.root / "retrained/first.safetensors", network(spec)
    checkpoint.save_model(path, model, TrialConfig(spec, TrainingSpec()), INFO)
    entries = [{"file": "retrained/first.safetensors"}, {"file": "retrained/second.safetensors"}]
    write_json(run.retrained, {"winner": entries})
    stages.record(run, stages.RETRAIN, [run.retrained, path])
    assert set(export.export_winner(run, ["onnx"], digits)) == {"onnx"}
    images, lengths = sequences(2, 3)
    sums = predictor.load(run.root)(images, lengths)
    expected = sums_one_by_one(model, images, lengths)
    torch.testing.assert_close(sums, expected, rtol=0, atol=1e-4)
