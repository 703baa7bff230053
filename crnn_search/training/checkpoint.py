"""Files of tensors: a training's checkpoint and a model, both safetensors, neither with pickle.

A file is whole or absent. All that is not a tensor stands as JSON in the file's own header, beside
a checksum of the tensors. A `CheckpointFolder` holds the few checkpoints of one job.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from crnn_search.errors import ConfigError, ModelFileError
from crnn_search.hyperparameters import TrialConfig
from crnn_search.storage.files import whole_or_absent
from crnn_search.training import engine
from crnn_search.training.engine import TrainState
from crnn_search.training.model import CRNN

T = TypeVar("T")

CHECKPOINT_FORMAT = "crnn-search checkpoint 2"
MODEL_FORMAT = "crnn-search model 2"


def save_state(path: Path, state: TrainState, history: Sequence[Mapping[str, Any]] = ()) -> None:
    """Write all that `load_state` needs to go on with a training.

    history: what each of its epochs gave, numbers only.
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
        "history": list(history),
    }
    _save(path, CHECKPOINT_FORMAT, header, tensors)


def load_state(path: Path, device: torch.device) -> tuple[TrainState, list[dict[str, Any]]]:
    """The training that `save_state` wrote, on `device`, and its history.

    Raises:
        ModelFileError: the file is missing, truncated, altered or of another kind.
    """
    header, tensors = _load(path, CHECKPOINT_FORMAT)
    config = _config(path, header)
    state = engine.start(config, seed=header["seed"], epochs=header["epochs"], device=device)
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
    return state, header["history"]


def save_model(path: Path, model: CRNN, config: TrialConfig, info: dict[str, Any]) -> None:
    """Write a trained network with the configuration it was trained with.

    info: whatever else JSON holds; `load_model` gives it back.
    """
    _save(path, MODEL_FORMAT, {"config": config.to_dict(), "info": info}, model.state_dict())


def load_model(path: Path) -> tuple[CRNN, TrialConfig, dict[str, Any]]:
    """A network in evaluation mode on the CPU, its configuration and its info.

    Raises:
        ModelFileError: the file is missing, truncated, altered or of another kind.
    """
    header, tensors = _load(path, MODEL_FORMAT)
    config = _config(path, header)
    model = CRNN(config.model).to(memory_format=torch.channels_last)
    _load_weights(path, model, tensors)
    return model.eval(), config, header["info"]


def _save(path: Path, kind: str, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    # Safetensors stores what lies in memory: channels_last weights must be made contiguous first.
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {"format": kind, "header": json.dumps(header), "crc32": _checksum(plain)}
    with whole_or_absent(path) as temporary:
        save_file(plain, temporary, metadata=metadata)


def _load(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != kind:
                raise ModelFileError(
                    f"{path} is no file of the kind {kind!r}: it says {metadata.get('format')!r}"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if metadata["crc32"] != _checksum(tensors):
                raise ValueError("its checksum is wrong")
            return json.loads(metadata["header"]), tensors
    except FileNotFoundError as error:
        raise ModelFileError(f"{path} does not exist") from error
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ModelFileError(
            f"{path} is truncated, altered or no safetensors file: {error}"
        ) from error


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """Of names and contents, in the order of the names."""
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].numpy().tobytes(), zlib.crc32(name.encode(), value))
    return f"{value:08x}"


def _config(path: Path, header: dict[str, Any]) -> TrialConfig:
    try:
        return TrialConfig.from_dict(header["config"])
    except (ConfigError, KeyError) as error:
        raise ModelFileError(f"{path} has a configuration that is not valid: {error}") from error


def _load_weights(path: Path, model: CRNN, weights: dict[str, Tensor]) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelFileError(
            f"the tensors in {path} do not fit its configuration: {error}"
        ) from error


def _match_layouts(optimizer: torch.optim.Optimizer) -> None:
    """Give loaded moments their parameters' memory layout.

    A fused optimizer walks both in memory order: beside a channels_last weight a contiguous moment
    would be read in the wrong order, without an error.
    """
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter).copy_(value)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
