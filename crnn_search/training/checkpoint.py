"""Files of tensors: a training's checkpoint and a model, both safetensors, neither with pickle.

A file is complete or absent. What is not a tensor is stored as JSON in the file's own header.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from crnn_search.errors import ConfigError, ModelFileError
from crnn_search.hyperparameters import Arithmetic, TrialConfig
from crnn_search.storage.files import atomic_write, writing
from crnn_search.text import shown
from crnn_search.training import engine
from crnn_search.training.engine import TrainState
from crnn_search.training.model import CRNN

CHECKPOINT_FORMAT = "crnn-search checkpoint 3"
MODEL_FORMAT = "crnn-search model 3"


class Checkpoint(NamedTuple):
    """What `save_state` was given: the training, its trial, and its epochs' metrics."""

    state: TrainState
    trial: dict[str, Any]
    history: list[dict[str, Any]]


def save_state(
    path: Path,
    state: TrainState,
    trial: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write all that `load_state` needs to continue a training.

    trial: what identifies the training, such as `Trial.to_dict()`. history: the metrics of each of
    its epochs. Both as JSON holds them.

    Raises:
        OSError: it cannot be written.
    """
    optimizer = state.optimizer.state_dict()["state"]
    tensors = {f"model.{name}": value for name, value in state.model.state_dict().items()}
    for parameter, values in optimizer.items():
        for name, value in values.items():
            tensors[f"optimizer.{parameter}.{name}"] = torch.as_tensor(value)
    header = {
        "config": state.config.to_dict(),
        "seed": state.seed,
        "epoch": state.epoch,
        "epochs": state.epochs,
        "trial": dict(trial),
        "history": list(history),
    }
    _save(path, CHECKPOINT_FORMAT, header, tensors)


def load_state(
    path: Path,
    device: torch.device,
    arithmetic: Arithmetic = Arithmetic(),  # noqa: B008  (frozen)
) -> Checkpoint:
    """The training that `save_state` wrote, on `device`, to be continued in `arithmetic`.

    Raises:
        ModelFileError: the file is missing, truncated or of another format.
    """
    header, tensors = _load(path, CHECKPOINT_FORMAT)
    state = engine.start(
        _config(path, header),
        seed=header["seed"],
        epochs=header["epochs"],
        device=device,
        arithmetic=arithmetic,
    )
    state.epoch = header["epoch"]
    _load_weights(path, state.model, _under("model.", tensors))
    values: dict[int, dict[str, Tensor]] = {}
    for name, value in _under("optimizer.", tensors).items():
        parameter, field = name.split(".")
        values.setdefault(int(parameter), {})[field] = value
    state.optimizer.load_state_dict(
        {"state": values, "param_groups": state.optimizer.state_dict()["param_groups"]}
    )
    _match_layouts(state.optimizer)
    return Checkpoint(state, header["trial"], header["history"])


def save_model(path: Path, model: CRNN, config: TrialConfig, info: dict[str, Any]) -> None:
    """Write a trained network with its configuration.

    info: anything that JSON holds; `load_model` returns it.

    Raises:
        StorageError: it cannot be written.
    """
    header = {"config": config.to_dict(), "info": info}
    with writing(path):
        _save(path, MODEL_FORMAT, header, model.state_dict())


def load_model(path: Path) -> tuple[CRNN, TrialConfig, dict[str, Any]]:
    """A float32 network in evaluation mode on the CPU, its configuration and its info.

    Raises:
        ModelFileError: the file is missing, truncated or of another format.
    """
    header, tensors = _load(path, MODEL_FORMAT)
    config = _config(path, header)
    model = CRNN(config.model).to(memory_format=torch.channels_last)
    _load_weights(path, model, tensors)
    return model.eval(), config, header["info"]


def _save(path: Path, kind: str, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    # Safetensors writes memory as it is: channels_last weights must be made contiguous first.
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {"format": kind, "header": json.dumps(header)}
    path.parent.mkdir(exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(contiguous, metadata))


def _load(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != kind:
                raise ModelFileError(
                    f"the format of {path} must be {kind!r}, got {shown(metadata.get('format'))}"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return json.loads(metadata["header"]), tensors
    except FileNotFoundError as error:
        raise ModelFileError(f"{path} does not exist") from error
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ModelFileError(
            f"{path} is truncated, altered or not a safetensors file: {error}"
        ) from error


def _config(path: Path, header: dict[str, Any]) -> TrialConfig:
    try:
        return TrialConfig.from_dict(header["config"])
    except (ConfigError, KeyError) as error:
        raise ModelFileError(f"{path} has an invalid configuration: {error}") from error


def _load_weights(path: Path, model: CRNN, weights: dict[str, Tensor]) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelFileError(
            f"the tensors in {path} do not fit its configuration: {error}"
        ) from error


def _match_layouts(optimizer: torch.optim.Optimizer) -> None:
    """Give loaded moments their parameters' memory layout.

    A fused optimizer reads both in memory order: it would misread contiguous moments of a
    channels_last weight, without an error.
    """
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter).copy_(value)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
