"""Which files are read as models, and which are refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from crnn_search.errors import ModelFileError
from crnn_search.models import predictor
from crnn_search.models.folder import FORMATS
from crnn_search.storage.run_folder import RunFolder
from tests.models.altered import altered
from tests.models.networks import sequences


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
def test_a_foreign_onnx_model_is_refused(tmp_path: Path, first: str) -> None:
    names = [first, "lengths", "sum"]
    values = [helper.make_tensor_value_info(name, TensorProto.INT64, [1]) for name in names]
    graph = helper.make_graph(
        [helper.make_node("Add", names[:2], ["sum"])], "g", values[:2], values[2:]
    )
    opset = helper.make_opsetid("", 17)
    onnx.save_model(
        helper.make_model(graph, ir_version=8, opset_imports=[opset]), tmp_path / "m.onnx"
    )
    with pytest.raises(
        ModelFileError,
        match=r"must be images tensor\(float\), lengths tensor\(int64\), sum tensor\(float\), got",
    ):
        predictor.load(tmp_path / "m.onnx")


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
    "sums of another shape": (
        "(float[B, T, 1, 28, 28] images, int64[B] lengths) => (float[S] sum)",
        "two = Concat <axis = 0> (lengths, lengths) sum = Cast <to = 1> (two)",
        r"its sums must have the shape \(4,\), got \(8,\)",
    ),
    "sums of another dtype": (
        "(float[B, T, 1, 28, 28] images, int64[B] lengths) => (int64[B] sum)",
        "sum = Identity (lengths)",
        r"must be images .*, sum tensor\(float\), got .*, sum tensor\(int64\)",
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_an_onnx_model_of_another_shape_or_dtype_is_refused(tmp_path: Path, name: str) -> None:
    signature, nodes, message = GRAPHS[name]
    text = f'<ir_version: 8, opset_import: ["": 18]> g {signature} {{ {nodes} }}'
    onnx.save_model(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    with pytest.raises(ModelFileError, match=message):
        predictor.load(tmp_path / "m.onnx")


def test_an_onnx_model_with_other_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    weights = {weight.name: weight for weight in model.graph.initializer}
    values = numpy_helper.to_array(weights["R_0"])
    weights["R_0"].CopyFrom(numpy_helper.from_array(values[:, ::-1].copy(), "R_0"))
    onnx.save_model(model, tmp_path / "m.onnx")
    with pytest.raises(ModelFileError, match="was altered: its sums of an example are others"):
        predictor.load(tmp_path / "m.onnx")


@pytest.mark.parametrize("sums", ["{}", "no JSON", "[1]", "null"])
def test_altered_sums_of_the_example_are_refused(folder: Path, tmp_path: Path, sums: str) -> None:
    model = onnx.load(folder / "model.onnx")
    helper.set_model_props(model, {predictor.EXAMPLE_SUMS: sums})
    onnx.save_model(model, tmp_path / "m.onnx")
    with pytest.raises(ModelFileError, match="was altered: its sums of an example are others"):
        predictor.load(tmp_path / "m.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_altered_models_give_the_same_sums_or_are_refused(
    folder: Path, tmp_path: Path, name: str, data: st.DataObject
) -> None:
    intact = folder / f"model.{name}"
    path = tmp_path / intact.name
    path.write_bytes(altered(data, intact.read_bytes()))
    images, lengths = sequences(3, 4)
    expected = predictor.load(intact)(images, lengths)
    try:
        sums = predictor.load(path)(images, lengths)
    except ModelFileError as error:
        assert path.name in str(error)  # noqa: PT017
    else:
        torch.testing.assert_close(sums, expected, rtol=0.01, atol=0.01)
