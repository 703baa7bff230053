"""Which files are read as models, and which are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from crnn_search.errors import ModelFileError
from crnn_search.models import predictor
from crnn_search.models.folder import FORMATS
from crnn_search.storage.run_folder import RunFolder


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
        match=r"must be images tensor\(float\), lengths tensor\(int64\), sum, got .*, sum$",
    ):
        predictor.load(tmp_path / "m.onnx")
