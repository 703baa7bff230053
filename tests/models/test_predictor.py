"""Which files are read as models, and which are refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from crnn_search.data.task_info import TaskInfo
from crnn_search.errors import ModelFileError
from crnn_search.models import predictor
from crnn_search.models.folder import FORMATS
from crnn_search.models.onnx_file import output_names
from crnn_search.models.preprocessing import Preprocessing
from crnn_search.storage.run_folder import RunFolder
from tests.models.altered import altered
from tests.models.conftest import FolderOf
from tests.models.networks import COLOUR, GREY, SPECS, SUMS, info_of, predict, sequences


def test_a_folder_gives_the_preferred_format(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path)
    run.model.mkdir()
    read: list[str] = []
    for name in FORMATS:
        reader = predictor._READERS[name]
        monkeypatch.setitem(predictor._READERS, name, recorded(reader, read))
    for name in reversed(FORMATS):
        (run.model / f"model.{name}").write_bytes((folder / f"model.{name}").read_bytes())
        predictor.load(run.root)
        predictor.load(run.model)
        assert read[-2:] == [f"model.{name}"] * 2


def recorded(
    reader: Callable[[Path], predictor.Predictor], read: list[str]
) -> Callable[[Path], predictor.Predictor]:
    def record(path: Path) -> predictor.Predictor:
        read.append(path.name)
        return reader(path)

    return record


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ModelFileError,
        match=r"has no model: none of model\.safetensors, model\.onnx is in it or in its folder",
    ):
        predictor.load(tmp_path)


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"gone\.onnx does not exist; give a model's file"):
        predictor.load(tmp_path / "gone.onnx")


@pytest.mark.parametrize("name", ["model.h5", "model.pt2"])
def test_an_unknown_suffix_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ModelFileError, match=rf"must end in \.safetensors, \.onnx, got .*{name}"):
        predictor.load(tmp_path / name)


@pytest.mark.parametrize(("name", "kind"), [("safetensors", "a safetensors"), ("onnx", "an ONNX")])
@pytest.mark.parametrize("content", [b"", b"This is no model, but a letter.\n" * 9])
def test_a_file_of_another_kind_is_refused(
    tmp_path: Path, name: str, kind: str, content: bytes
) -> None:
    path = tmp_path / f"letter.{name}"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=f"truncated, altered or not {kind} file: .") as caught:
        predictor.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FORMATS)
def test_a_truncated_model_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    content = (folder / f"model.{name}").read_bytes()
    (tmp_path / f"half.{name}").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelFileError, match=r"half.* is truncated, altered or not"):
        predictor.load(tmp_path / f"half.{name}")


@pytest.mark.parametrize("first", ["x", "images"])  # the second has a wrong dtype only
@pytest.mark.parametrize("task", [SUMS, COLOUR], ids=lambda task: task.name)
def test_a_foreign_onnx_model_is_refused(tmp_path: Path, task: TaskInfo, first: str) -> None:
    output, running = output_names(task)
    names = [first, "lengths", output]
    values = [helper.make_tensor_value_info(name, TensorProto.INT64, [1]) for name in names]
    graph = helper.make_graph(
        [helper.make_node("Add", names[:2], [output])], "g", values[:2], values[2:]
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save_model(model, tmp_path / "m.onnx")
    with pytest.raises(ModelFileError, match="its metadata have no 'config'"):
        predictor.load(tmp_path / "m.onnx")
    save_with(model, tmp_path / "m.onnx", **properties(task))
    message = (
        rf"must be images tensor\(float\), lengths tensor\(int64\), {output} tensor\(float\), "
        rf"{running} tensor\(float\), got"
    )
    with pytest.raises(ModelFileError, match=message):
        predictor.load(tmp_path / "m.onnx")


def save_with(model: onnx.ModelProto, path: Path, **metadata: str | None) -> None:
    """Save a model with some of its metadata changed, or removed: those that are None."""
    changed = {entry.key: entry.value for entry in model.metadata_props} | metadata
    helper.set_model_props(model, {k: v for k, v in changed.items() if v is not None})
    onnx.save_model(model, path)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    for name in FORMATS:
        os.mkfifo(tmp_path / f"model.{name}")
        (tmp_path / f"null.{name}").symlink_to("/dev/null")
        for path in (tmp_path / f"model.{name}", tmp_path / f"null.{name}"):
            with pytest.raises(ModelFileError, match=r"cannot be read: it is a pipe, a device"):
                predictor.load(path)
    with pytest.raises(ModelFileError, match="has no model"):
        predictor.load(tmp_path)


class Payload:
    """Creates a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("suffix", [*FORMATS, "pt2", "pt"])
def test_no_file_is_unpickled(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model.{suffix}"
    torch.save(Payload(tmp_path / "owned"), path)
    path.write_bytes(path.read_bytes() * 2)  # two central directories
    with pytest.raises(ModelFileError, match=path.name):
        predictor.load(path)
    assert not (tmp_path / "owned").exists()


GRAPHS = {
    "rank": (
        "(float[B, T, 28, 28] images, int64[B] lengths) => (float[T] sum, float[T] running_sum)",
        "axes = Constant <value_ints = [0, 2, 3]> () sum = ReduceMax (images, axes) "
        "running_sum = Identity (sum)",
        "it fails on images",
    ),
    "fixed size": (
        "(float[1, 5, 1, 28, 28] images, int64[1] lengths) => (float[1] sum, float[1] running_sum)",
        "sum = Cast <to = 1> (lengths) running_sum = Cast <to = 1> (lengths)",
        "it fails on images",
    ),
    "predictions of another shape": (
        "(float[B, T, 1, 28, 28] images, int64[B] lengths) => (float[B] sum, float[S] running_sum)",
        "two = Concat <axis = 0> (lengths, lengths) running_sum = Cast <to = 1> (two) "
        "sum = Cast <to = 1> (lengths)",
        r"its running predictions must have the shape \(4, 3\), got \(8,\)",
    ),
    "predictions of another dtype": (
        "(float[B, T, 1, 28, 28] images, int64[B] lengths) => (int64[B] sum, int64[B] running_sum)",
        "sum = Identity (lengths) running_sum = Identity (lengths)",
        r"must be images .*, sum tensor\(float\), .*, got .*, sum tensor\(int64\)",
    ),
}


def properties(task: TaskInfo) -> dict[str, str | None]:
    """The metadata of a file for this task."""
    info = info_of(SPECS["embedding"], task)
    return {"config": json.dumps(info.config.to_dict()), "info": json.dumps(info.to_dict())}


@pytest.mark.parametrize("name", GRAPHS)
def test_an_onnx_model_of_another_shape_or_dtype_is_refused(tmp_path: Path, name: str) -> None:
    signature, nodes, message = GRAPHS[name]
    text = f'<ir_version: 8, opset_import: ["": 18]> g {signature} {{ {nodes} }}'
    save_with(onnx.parser.parse_model(text), tmp_path / "m.onnx", **properties(SUMS))
    with pytest.raises(ModelFileError, match=message):
        predictor.load(tmp_path / "m.onnx")


@pytest.mark.parametrize("task", [SUMS, COLOUR, GREY], ids=lambda task: task.name)
def test_an_onnx_model_with_other_weights_is_refused(
    folder_of: FolderOf, tmp_path: Path, task: TaskInfo
) -> None:
    model = onnx.load(folder_of("embedding", task) / "model.onnx")
    weights = {weight.name: weight for weight in model.graph.initializer}
    values = numpy_helper.to_array(weights["R_0"])
    weights["R_0"].CopyFrom(numpy_helper.from_array(values[:, ::-1].copy(), "R_0"))
    onnx.save_model(model, tmp_path / "m.onnx")
    with pytest.raises(ModelFileError, match="was altered: its predictions of an example are oth"):
        predictor.load(tmp_path / "m.onnx")


@pytest.mark.parametrize("predictions", ["{}", "no JSON", "[1]", "null", "[" * 100_000, None])
def test_altered_predictions_of_the_example_are_refused(
    folder: Path, tmp_path: Path, predictions: str | None
) -> None:
    model = onnx.load(folder / "model.onnx")
    save_with(model, tmp_path / "m.onnx", example_predictions=predictions)
    with pytest.raises(ModelFileError, match="was altered: its predictions of an example are oth"):
        predictor.load(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (None, "is not a model of crnn-search: its metadata have no 'info'"),
        ("", "has invalid metadata: Expecting value"),
        ("{", "has invalid metadata: Expecting property name"),
        ("[" * 100_000, "has invalid metadata: maximum recursion depth"),
        ("null", "has invalid metadata: "),
        ("[]", "has invalid metadata: "),
        ("{}", "has invalid metadata: it has no 'task'"),
        ({"task": 3}, "has invalid metadata: "),
        ({"networks": 0}, "has invalid metadata: networks must be 1 or more, got 0"),
        ({"networks": 1.5}, "has invalid metadata: networks must be of type int"),
        ({"metrics": []}, "has invalid metadata: metrics must be of type dict"),
        ({"preprocessing": {"shape": [1]}}, "has invalid metadata: image_shape must be 1 or 3"),
        ({"preprocessing": {"a": 1}}, "has invalid metadata: it has no 'shape'"),
        ({"pixels": {"mean": [1, 0]}}, "has invalid metadata: a range of pixels must be"),
        ({"pixels": {"mean": 1}}, "has invalid metadata: .*"),
        ({"pixels": {"mean": [0, 1]}}, "has invalid metadata: .* missing 2 required"),
    ],
)  # fmt: skip
def test_altered_metadata_are_refused(
    folder_of: FolderOf, tmp_path: Path, info: str | dict[str, Any] | None, message: str
) -> None:
    known = json.loads(properties(COLOUR)["info"] or "")
    text = json.dumps(known | info) if isinstance(info, dict) else info
    model = onnx.load(folder_of("embedding", COLOUR) / "model.onnx")
    save_with(model, tmp_path / "m.onnx", info=text)
    with pytest.raises(ModelFileError, match=rf"m\.onnx.*{message}"):
        predictor.load(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        ({"box": 29}, r"a box of 1 to 28 pixels, .* got Placement\(box=29"),
        ({"box": "20"}, "box must be of type int"),
        ({"stroke": -1.0}, r"got Placement\(box=20, stroke=-1.0"),
        ({"blur": 0.0}, r"got Placement\(.*blur=0.0"),
        ({"size": 3}, "unexpected keyword argument 'size'"),
    ],
)
def test_an_altered_placement_is_refused(placement: dict[str, Any], message: str) -> None:
    values = Preprocessing.of(SUMS).to_dict()
    assert Preprocessing.from_dict(values) == Preprocessing.of(SUMS)
    values["placement"] |= placement
    with pytest.raises((TypeError, ValueError), match=message):
        Preprocessing.from_dict(values)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"name": None}, "name must be of type str"),
        ({"sums": 1}, "sums must be of type bool"),
        ({"longest": 0}, "longest must be a whole number"),
        ({"scale": 0.0}, "scale must be a positive number"),
        ({"scale": float("nan")}, "scale must be of type"),
        ({"center": float("inf")}, "center must be of type"),
        ({"unit": 3}, "unit must be of type"),
        ({"weight": 3}, ".*weight"),
        ({"shape": [2, 16, 24]}, "image_shape must be 1 or 3"),
        ({"shape": [3, 24, 16]}, "is not a model of crnn-search: it fails on images"),
        ({"shape": [1, 28, 28]}, "is not a model of crnn-search: it fails on images"),
        ({"sums": True}, r"must be images .*, sum tensor\(float\), .*, got .*, prediction tensor"),
    ],
)
def test_an_altered_task_is_refused(
    folder_of: FolderOf, tmp_path: Path, task: dict[str, Any], message: str
) -> None:
    known = json.loads(properties(COLOUR)["info"] or "")
    known["task"] |= task
    model = onnx.load(folder_of("embedding", COLOUR) / "model.onnx")
    save_with(model, tmp_path / "m.onnx", info=json.dumps(known))
    with pytest.raises(ModelFileError, match=rf"m\.onnx.*{message}"):
        predictor.load(tmp_path / "m.onnx")


@pytest.mark.parametrize("name", [field.name for field in fields(TaskInfo)])
def test_a_task_without_a_value_is_refused(folder_of: FolderOf, tmp_path: Path, name: str) -> None:
    known = json.loads(properties(COLOUR)["info"] or "")
    del known["task"][name]
    model = onnx.load(folder_of("embedding", COLOUR) / "model.onnx")
    save_with(model, tmp_path / "m.onnx", info=json.dumps(known))
    with pytest.raises(ModelFileError, match=f"invalid metadata: it has no '{name}'"):
        predictor.load(tmp_path / "m.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("task", [SUMS, COLOUR], ids=lambda task: task.name)
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_altered_models_predict_the_same_or_are_refused(
    folder_of: FolderOf, tmp_path: Path, task: TaskInfo, name: str, data: st.DataObject
) -> None:
    intact = folder_of("embedding", task) / f"model.{name}"
    path = tmp_path / intact.name
    path.write_bytes(altered(data, intact.read_bytes()))
    images, lengths = sequences(3, 4, shape=task.shape)
    expected = predict(predictor.load(intact), images, lengths)
    try:
        predictions = predict(predictor.load(path), images, lengths)
    except ModelFileError as error:
        assert path.name in str(error)  # noqa: PT017
    else:
        found, wanted = predictions - task.center, expected - task.center
        torch.testing.assert_close(found, wanted, rtol=0.01, atol=0.01 * task.scale)


def test_onnx_files_are_read_without_pytorch_and_ray(folder: Path) -> None:
    program = f"""
import pathlib, sys
sys.modules |= dict.fromkeys(["torch", "ray", "onnx", "optuna"])  # an import of one fails
from crnn_search.models.model import Model
from crnn_search.models.predictor import load
model = Model(load(pathlib.Path({str(folder / "model.onnx")!r})))
files = [pathlib.Path("examples/digits/a1_7.png").resolve()] * 2
print(len(model.predict_files([files])[0].running))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("2\n", "")
