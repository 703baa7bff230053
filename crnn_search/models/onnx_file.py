"""ONNX files of this package, read with onnxruntime alone.

Shapes: `B` sequences, `T` time steps, `C` channels, `H` rows, `W` columns.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crnn_search.data.task_info import TaskInfo
from crnn_search.errors import ModelFileError
from crnn_search.hyperparameters import ImageShape, TrialConfig
from crnn_search.models import predictor
from crnn_search.models.info import ModelInfo
from crnn_search.storage.checks import ALTERED
from crnn_search.text import first_line

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported
import onnxruntime

Floats = NDArray[np.float32]
Lengths = NDArray[np.int64]

INPUTS = ("images tensor(float)", "lengths tensor(int64)")
"""Inputs of the contract, as onnxruntime names them."""

CONFIG, INFO = "config", "info"
"""Properties of a file: the hyperparameters, and `ModelInfo.to_dict`, as JSON."""

EXAMPLE_PREDICTIONS = "example_predictions"
"""The property with the running predictions of `example` as JSON: tells whether a file was
altered."""


def output_names(task: TaskInfo) -> tuple[str, str]:
    """The names of a model's outputs: after the last image, and after each."""
    name = "sum" if task.sums else "prediction"
    return name, f"running_{name}"


def load(path: Path) -> tuple[Callable[[Floats, Lengths], Floats], ModelInfo]:
    """The function and the information of `predictor.Predictor`.

    Raises:
        ModelFileError: the file is not a model of this package.
    """
    try:
        session = open_session(str(path))
        values = (*session.get_inputs(), *session.get_outputs())
        got = [f"{value.name} {value.type}" for value in values]
        metadata = session.get_modelmeta().custom_metadata_map
    except Exception as error:  # onnxruntime's errors have no nearer base
        raise ModelFileError(
            f"{path} is truncated, altered or not an ONNX file: {first_line(error)}"
        ) from error
    info = _info(path, metadata)
    names = output_names(info.task)
    valid = [*INPUTS, *(f"{name} tensor(float)" for name in names)]
    if got != valid:
        raise _foreign(
            path, f"its inputs and outputs must be {', '.join(valid)}, got {', '.join(got)}"
        )

    def predict(images: Floats, lengths: Lengths) -> Floats:
        try:
            running = run(session, images, lengths)
        except Exception as error:
            raise _foreign(
                path, f"it fails on images {images.shape}: {first_line(error)}"
            ) from error
        if running.shape != images.shape[:2]:
            shapes = f"{images.shape[:2]}, got {running.shape}"
            raise _foreign(path, f"its running predictions must have the shape {shapes}")
        return running

    images, lengths = example(info.task.shape)
    found = predict(images, lengths)[np.arange(len(lengths)), lengths - 1]
    if not _equal(found, metadata.get(EXAMPLE_PREDICTIONS, ""), info.task):
        raise ModelFileError(f"{path} was altered: its predictions of an example are others")
    return predict, info


def open_session(model: str | bytes) -> onnxruntime.InferenceSession:
    """A session on the CPU of a model's file, by its name, or of its content.

    It has as many threads as `OMP_NUM_THREADS` says, by default as the process has cores.
    """
    options = onnxruntime.SessionOptions()
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0))
    options.intra_op_num_threads = int(wanted) if wanted.isdecimal() and int(wanted) else cores
    options.log_severity_level = 4  # errors are raised and need not be printed, too
    return onnxruntime.InferenceSession(
        model,
        options,
        providers=["CPUExecutionProvider"],
        enable_fallback=False,  # it would try the same again, and print so
    )


def run(session: onnxruntime.InferenceSession, images: Floats, lengths: Lengths) -> Floats:
    """The second output of a session, the running predictions."""
    name = session.get_outputs()[1].name
    (output,) = session.run([name], {"images": images, "lengths": lengths})
    running: Floats = output
    return running


def example(shape: ImageShape) -> tuple[Floats, Lengths]:
    """Images and lengths on which an ONNX file is tried when it is read: waves, not random."""
    y, x = np.meshgrid(
        np.linspace(0, 3, shape.rows), np.linspace(0, 3, shape.columns), indexing="ij"
    )
    number = np.arange(12.0).reshape(4, 3, 1, 1, 1) + np.arange(shape.channels)[:, None, None]
    images = 0.5 + 0.5 * np.sin((1 + number) * x + (12 - number) * y * x)
    return images.astype(np.float32), np.array([3, 1, 2, 3])


def _info(path: Path, metadata: Mapping[str, str]) -> ModelInfo:
    """What an ONNX file states in its metadata."""
    for name in (CONFIG, INFO):
        if name not in metadata:
            raise _foreign(path, f"its metadata have no {name!r}")
    try:
        config: dict[str, Any] = json.loads(metadata[CONFIG])
        return ModelInfo.from_dict(TrialConfig.from_dict(config), json.loads(metadata[INFO]))
    except (*ALTERED, RecursionError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else first_line(error)
        raise ModelFileError(f"{path} has invalid metadata: {why}") from error


def _equal(predictions: Floats, expected: str, task: TaskInfo) -> bool:
    """Whether predictions are what JSON states, up to arithmetic on other processors."""
    try:
        values = np.array(json.loads(expected), dtype=np.float64)
    except (ValueError, TypeError, RecursionError):
        return False
    return values.shape == predictions.shape and np.allclose(
        predictions.astype(np.float64) - task.center,
        values - task.center,
        rtol=predictor.MAX_DIFFERENCE,
        atol=predictor.tolerance(task, predictions),
        equal_nan=True,
    )


def _foreign(path: Path, reason: str) -> ModelFileError:
    return ModelFileError(f"{path} is not a model of crnn-search: {reason}")
