"""Which files are read as models, and which are refused."""

from __future__ import annotations

import json
import os
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
from crnn_search.storage.run_folder import RunFolder
from tests.models.altered import altered
from tests.models.conftest import FolderOf
from tests.models.networks import COLOUR, GREY, SUMS, sequences


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
    names = [first, "lengths", output := predictor.output_name(task)]
    values = [helper.make_tensor_value_info(name, TensorProto.INT64, [1]) for name in names]
    graph = helper.make_graph(
        [helper.make_node("Add", names[:2], [output])], "g", values[:2], values[2:]
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save_model(model, tmp_path / "m.onnx")
    with pytest.raises(ModelFileError, match="its metadata have no 'task'"):
        predictor.load(tmp_path / "m.onnx")
    save_with(model, tmp_path / "m.onnx", task=json.dumps(task.to_dict()))
    message = (
        rf"must be images tensor\(float\), lengths tensor\(int64\), {output} tensor\(float\), got"
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
        "(float[B, T, 28, 28] images, int64[B] lengths) => (float[T] sum)",
        "axes = Constant <value_ints = [0, 2, 3]> () sum = ReduceMax (images, axes)",
        "it fails on images",
    ),
    "fixed size": (
        "(float[1, 5, 1, 28, 28] images, int64[1] lengths) => (float[1] sum)",
        "sum = Cast <to = 1> (lengths)",
        "it fails on images",
    ),
    "predictions of another shape": (
        "(float[B, T, 1, 28, 28] images, int64[B] lengths) => (float[S] sum)",
        "two = Concat <axis = 0> (lengths, lengths) sum = Cast <to = 1> (two)",
        r"its predictions must have the shape \(4,\), got \(8,\)",
    ),
    "predictions of another dtype": (
        "(float[B, T, 1, 28, 28] images, int64[B] lengths) => (int64[B] sum)",
        "sum = Identity (lengths)",
        r"must be images .*, sum tensor\(float\), got .*, sum tensor\(int64\)",
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_an_onnx_model_of_another_shape_or_dtype_is_refused(tmp_path: Path, name: str) -> None:
    signature, nodes, message = GRAPHS[name]
    text = f'<ir_version: 8, opset_import: ["": 18]> g {signature} {{ {nodes} }}'
    task = json.dumps(SUMS.to_dict())
    save_with(onnx.parser.parse_model(text), tmp_path / "m.onnx", task=task)
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
    ("task", "message"),
    [
        (None, "is not a model of crnn-search: its metadata have no 'task'"),
        ("", "has an invalid task in its metadata: Expecting value"),
        ("{", "has an invalid task in its metadata: Expecting property name"),
        ("[" * 100_000, "has an invalid task in its metadata: maximum recursion depth"),
        ("null", "has an invalid task in its metadata: "),
        ("[]", "has an invalid task in its metadata: "),
        ('"clips"', "has an invalid task in its metadata: "),
        ({"name": None}, "has an invalid task in its metadata: name must be of type str"),
        ({"sums": 1}, "has an invalid task in its metadata: sums must be of type bool"),
        ({"longest": 0}, "has an invalid task in its metadata: longest must be a whole number"),
        ({"scale": 0.0}, "has an invalid task in its metadata: scale must be a positive number"),
        ({"scale": float("nan")}, "has an invalid task in its metadata: scale must be of type"),
        ({"center": float("inf")}, "has an invalid task in its metadata: center must be of type"),
        ({"unit": 3}, "has an invalid task in its metadata: unit must be of type"),
        ({"weight": 3}, "has an invalid task in its metadata: .*weight"),
        ({"shape": [2, 16, 24]}, "has an invalid task in its metadata: image_shape must be 1 or 3"),
        ({"shape": [3, 24, 16]}, "is not a model of crnn-search: it fails on images"),
        ({"shape": [1, 28, 28]}, "is not a model of crnn-search: it fails on images"),
        ({"sums": True}, r"must be images .*, sum tensor\(float\), got .*, prediction tensor"),
    ],
)  # fmt: skip
def test_an_altered_task_is_refused(
    folder_of: FolderOf, tmp_path: Path, task: str | dict[str, Any] | None, message: str
) -> None:
    text = json.dumps(COLOUR.to_dict() | task) if isinstance(task, dict) else task
    model = onnx.load(folder_of("embedding", COLOUR) / "model.onnx")
    save_with(model, tmp_path / "m.onnx", task=text)
    with pytest.raises(ModelFileError, match=rf"m\.onnx.*{message}"):
        predictor.load(tmp_path / "m.onnx")


@pytest.mark.parametrize("name", [field.name for field in fields(TaskInfo)])
def test_a_task_without_a_value_is_refused(folder_of: FolderOf, tmp_path: Path, name: str) -> None:
    task = {key: value for key, value in COLOUR.to_dict().items() if key != name}
    model = onnx.load(folder_of("embedding", COLOUR) / "model.onnx")
    save_with(model, tmp_path / "m.onnx", task=json.dumps(task))
    with pytest.raises(ModelFileError, match=f"invalid task in its metadata: it has no '{name}'"):
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
    expected = predictor.load(intact)(images, lengths)
    try:
        predictions = predictor.load(path)(images, lengths)
    except ModelFileError as error:
        assert path.name in str(error)  # noqa: PT017
    else:
        found, wanted = predictions - task.center, expected - task.center
        torch.testing.assert_close(found, wanted, rtol=0.01, atol=0.01 * task.scale)
