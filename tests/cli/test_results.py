"""report, export and predict: what is not ready or not a model is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from crnn_search.hyperparameters import ImageShape, ModelSpec, TrainingSpec, TrialConfig
from crnn_search.pipeline.manifest import Manifest
from crnn_search.spaces.file import parse_space
from crnn_search.storage import stages
from crnn_search.storage.files import write_json
from crnn_search.storage.run_folder import RunFolder
from crnn_search.training import checkpoint
from crnn_search.training.model import CRNN
from tests.cli.conftest import SPACE, CommandLine

SMALL = TrialConfig(ModelSpec(conv_channels=(2,), gru_sizes=(4,)), TrainingSpec())


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run that was launched, in a folder with a space in its name."""
    run = RunFolder(tmp_path / "my run")
    run.root.mkdir()
    run.space.write_text(SPACE)
    Manifest.create(run, parse_space(SPACE)).write(run)
    return run


def retrained(run: RunFolder) -> None:
    """Let the run be retrained, with a model that is none."""
    model = run.retrained_models / "seed-0.safetensors"
    model.parent.mkdir()
    for path in (run.best, run.retrained, model):
        write_json(path, {})
    stages.record(run, stages.FINALISTS, [run.best])
    stages.record(run, stages.RETRAIN, [run.retrained, model])


@pytest.mark.parametrize("command", ["report", "export"])
def test_run_without_retraining_is_refused(
    crnn_search: CommandLine, run: RunFolder, command: str
) -> None:
    done = crnn_search(command, str(run.root))
    assert done.code == 2
    assert "has no retrained.json: its winner has not been retrained yet" in done.err


@pytest.mark.parametrize("command", ["report", "export"])
def test_missing_model_is_named_with_a_remedy(
    crnn_search: CommandLine, run: RunFolder, command: str
) -> None:
    retrained(run)
    (run.retrained_models / "seed-0.safetensors").unlink()
    done = crnn_search(command, str(run.root))
    assert done.code == 2
    assert f"a model is missing in {run.root}/retrained" in done.err
    assert done.err.endswith(f"crnn-search resume '{run.root}'\n")


def test_missing_model_in_a_bucket_is_named_by_the_bucket(
    monkeypatch: pytest.MonkeyPatch, crnn_search: CommandLine, run: RunFolder
) -> None:
    class Mirror:
        uri = "s3://bucket/demo?region=eu-central-1"

        def has(self, _: str) -> bool:
            return False

    mirror: Any = Mirror()
    mirrored = RunFolder(run.root, mirror)
    run.retrained.write_text("{}")
    monkeypatch.setattr("crnn_search.storage.runs.open_run", lambda _: mirrored)
    done = crnn_search("report", Mirror.uri)
    assert done.code == 2
    assert "missing in s3://bucket/demo/retrained?region=eu-central-1" in done.err
    assert done.err.endswith(f"crnn-search resume '{Mirror.uri}'\n")
    assert str(run.root) not in done.err


def test_unknown_format_is_refused(crnn_search: CommandLine, run: RunFolder) -> None:
    retrained(run)
    done = crnn_search("export", str(run.root), "--format", "pickle")
    assert done.code == 2
    assert "--format must be one of safetensors, onnx" in done.err
    assert "got 'pickle'" in done.err


def test_predict_refuses_other_files(crnn_search: CommandLine, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    Image.new("L", (28, 28)).save(image)
    for name, content in (("a.onnx", b"no model"), ("b.safetensors", b"x"), ("c.txt", b"hello")):
        path = tmp_path / name
        path.write_bytes(content)
        done = crnn_search("predict", str(path), str(image))
        assert done.code == 2
        assert name in done.err


def test_predict_refuses_a_model_of_other_images(crnn_search: CommandLine, tmp_path: Path) -> None:
    model, image = tmp_path / "model.safetensors", tmp_path / "image.png"
    network = CRNN(SMALL.model, ImageShape(3, 32, 40))
    checkpoint.save_model(model, network, SMALL, {"max_digits": 8})
    Image.new("L", (28, 28)).save(image)
    done = crnn_search("predict", str(model), str(image))
    assert (done.code, done.out) == (2, "")
    assert "images must have the shape (B, T, 3, 32, 40), got (1, 1, 1, 28, 28)" in done.err


def test_predict_reads_images(crnn_search: CommandLine, tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    network = CRNN(SMALL.model)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    checkpoint.save_model(model, network, SMALL, {"max_digits": 8})
    image, broken = tmp_path / "image.png", tmp_path / "broken.png"
    Image.new("L", (28, 28)).save(image)
    broken.write_bytes(b"no picture")
    done = crnn_search("predict", str(model), str(image), str(image))
    assert (done.code, done.out) == (0, f"{image}: 0.00\n" * 2)
    nothing = f"warning: {image}: there is nothing to read in it, it counts as black\n"
    assert done.err == nothing * 2
    for path in (broken, tmp_path / "missing.png"):
        done = crnn_search("predict", str(model), str(image), str(path))
        assert done.code == 2
        assert path.name in done.err
