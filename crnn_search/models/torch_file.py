"""Networks of PyTorch, and their files, as the functions of `predictor`.

Shapes: `B` sequences, `T` time steps, `N` real images of a batch (no padding), `C` channels, `H`
rows, `W` columns.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from crnn_search.data.sequences import pack_order
from crnn_search.errors import ModelFileError
from crnn_search.models.info import ModelInfo
from crnn_search.models.predictor import Floats, Lengths, Predictor, at_once
from crnn_search.storage.checks import ALTERED
from crnn_search.text import first_line
from crnn_search.training import checkpoint
from crnn_search.training.model import CRNN


def load(path: Path) -> tuple[Callable[[Floats, Lengths], Floats], ModelInfo]:
    """The function and the information of `Predictor`.

    Raises:
        ModelFileError: the file is not an exported model of this package.
    """
    network, config, values = checkpoint.load_model(path)
    try:
        info = ModelInfo.from_dict(config, values)
    except ALTERED as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else first_line(error)
        raise ModelFileError(f"{path} is not an exported model: {why}") from error
    return _function(network), info


def predictor_of(network: CRNN, info: ModelInfo) -> Predictor:
    """A network in evaluation mode as a predictor. It encodes some images at a time."""
    return Predictor(_function(network), info)


def _function(network: CRNN) -> Callable[[Floats, Lengths], Floats]:
    images_at_once = at_once(network.shape)

    def encode(images: Tensor) -> Tensor:
        with warnings.catch_warnings():
            # PyTorch warns, once a process, that it pads for an even kernel.
            warnings.filterwarnings("ignore", "Using padding='same' with even kernel", UserWarning)
            return torch.cat([network.encode(part) for part in images.split(images_at_once)])

    @torch.no_grad()
    def predict(images: Floats, lengths: Lengths) -> Floats:
        order, active = pack_order(torch.from_numpy(lengths))
        packed = torch.from_numpy(images)[order, : len(active)].transpose(0, 1)[active]
        running = torch.zeros(images.shape[:2])
        steps, places = active.nonzero(as_tuple=True)
        running[order[places], steps] = network.decode_running(encode(packed), active.sum(1))
        return np.asarray(running.numpy())

    return predict
