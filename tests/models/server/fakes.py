"""Models that need no network: they add the mean brightness of images, each from 0 to 1."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
from PIL import Image

from crnn_search.data.task_info import TaskInfo
from crnn_search.hyperparameters import ModelSpec, TrainingSpec, TrialConfig
from crnn_search.models.info import ModelInfo
from crnn_search.models.model import Model
from crnn_search.models.predictor import Floats, Lengths, Predictor
from crnn_search.models.preprocessing import Preprocessing
from tests.models.networks import SUMS

METRICS = {"rmse": 0.5}


def brightness(
    task: TaskInfo = SUMS,
    *,
    bias: float = 0.0,
    placed: bool = False,
    calls: list[tuple[int, ...]] | None = None,
) -> Model:
    """A model. bias: is added. placed: digits are placed as MNIST's are, else images are resized.

    calls: becomes the shapes of what is predicted.
    """

    def function(images: Floats, lengths: Lengths) -> Floats:
        if calls is not None:
            calls.append(images.shape)
        running: Floats = images.mean(axis=(2, 3, 4)).cumsum(axis=1) + np.float32(bias)
        return running

    preprocessing = Preprocessing.of(task) if placed else Preprocessing(task.shape)
    config = TrialConfig(ModelSpec(), replace(TrainingSpec(), max_sequence_length=8))
    return Model(Predictor(function, ModelInfo(config, task, preprocessing, metrics=METRICS)))


def png(grey: int = 255, side: int = 28, file_format: str = "PNG") -> bytes:
    """An image file of one grey, from 0, black, to 255."""
    buffer = io.BytesIO()
    Image.new("L", (side, side), grey).save(buffer, file_format)
    return buffer.getvalue()


def text(content: bytes) -> str:
    """Bytes as base64."""
    return base64.b64encode(content).decode()


WHITE, BLACK = text(png()), text(png(0))
