"""Files of tensors: a training's checkpoint and a model, both safetensors, neither with pickle.

A file is complete or absent. What is not a tensor is stored as JSON in the file's own header, with
a checksum of all. Nothing is allocated before names, shapes and dtypes were checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from crnn_search.data.task_info import TaskInfo
from crnn_search.errors import ModelFileError
from crnn_search.hyperparameters import Arithmetic, ImageShape, TrialConfig
from crnn_search.storage.checks import ALTERED, check_types
from crnn_search.storage.files import atomic_write, writing
from crnn_search.storage.regular_file import unreadable
from crnn_search.text import first_line, shown
from crnn_search.training import engine
from crnn_search.training.engine import TrainState
from crnn_search.training.model import CRNN

CHECKPOINT_FORMAT = "crnn-search checkpoint 4"
MODEL_FORMAT = "crnn-search model 4"


_STATE_TYPES = {
    "seed": "int", "epoch": "int", "epochs": "int", "trial": "dict[str, Any]",
    "history": "list[dict[str, Any]]",
}  # fmt: skip
"""Types in a checkpoint's header, beside its configuration."""

_MOMENTS = {"adamw": ("step", "exp_avg", "exp_avg_sq"), "rmsprop": ("step", "square_avg")}
"""What each optimizer keeps of a parameter."""


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
    if state.average is not None:
        average = state.average.state_dict()
        tensors |= {f"average.{name}": value for name, value in average.items()}
    for parameter, values in optimizer.items():
        for name, value in values.items():
            tensors[f"optimizer.{parameter}.{name}"] = torch.as_tensor(value)
    header = {
        "config": state.config.to_dict(),
        "image_shape": state.model.shape,
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
    header, tensors, intact = _load(path, CHECKPOINT_FORMAT)
    try:
        shape = ImageShape.from_json(header["image_shape"])
        check_types({name: header[name] for name in _STATE_TYPES}, _STATE_TYPES)
        if not 0 <= header["epoch"] <= header["epochs"]:
            raise ValueError(f"epoch must be 0 to {header['epochs']}, got {header['epoch']}")
    except ALTERED as error:
        raise _invalid(path, error) from error
    config = _config(path, header, shape)
    weights = _under("model.", tensors)
    with torch.device("meta"):
        network = CRNN(config.model, shape)
    _check_weights(path, network, weights)
    average = _under("average.", tensors)
    if config.training.ema:
        _check_weights(path, network, average)
    moments = _moments(path, config.training.optimizer, network, tensors)
    _check_intact(path, intact)
    state = engine.start(
        config,
        seed=header["seed"],
        epochs=header["epochs"],
        device=device,
        shape=shape,
        arithmetic=arithmetic,
    )
    state.epoch = header["epoch"]
    state.model.load_state_dict(weights)
    if state.average is not None:
        state.average.load_state_dict(average)
    state.optimizer.load_state_dict(
        {"state": moments, "param_groups": state.optimizer.state_dict()["param_groups"]}
    )
    _match_layouts(state.optimizer)
    return Checkpoint(state, header["trial"], header["history"])


def load_network(path: Path) -> tuple[CRNN, TrialConfig]:
    """The float32 network that a training gives, on the CPU, and its configuration.

    With a moving average of the weights it is the average. Without an optimizer.

    Raises:
        ModelFileError: the file is missing, truncated or of another format.
    """
    header, tensors, intact = _load(path, CHECKPOINT_FORMAT)
    try:
        shape = ImageShape.from_json(header["image_shape"])
    except ALTERED as error:
        raise _invalid(path, error) from error
    config = _config(path, header, shape)
    prefix = "average." if config.training.ema else "model."
    return _network(path, config, shape, _under(prefix, tensors), intact), config


def save_model(path: Path, model: CRNN, config: TrialConfig, info: dict[str, Any]) -> None:
    """Write a trained network with its configuration.

    info: what JSON holds; `task` in it is what `TaskInfo.to_dict` gives, of the network's shape.

    Raises:
        StorageError: it cannot be written.
    """
    header = {"config": config.to_dict(), "info": info}
    with writing(path):
        _save(path, MODEL_FORMAT, header, model.state_dict())


def load_model(path: Path) -> tuple[CRNN, TrialConfig, dict[str, Any]]:
    """A float32 network in evaluation mode on the CPU, its configuration and its info.

    `task` in the info is a valid `TaskInfo`.

    Raises:
        ModelFileError: the file is missing, truncated or of another format.
    """
    header, tensors, intact = _load(path, MODEL_FORMAT)
    try:
        check_types({"info": header["info"]}, {"info": "dict[str, Any]"})
        shape = TaskInfo.from_dict(header["info"]["task"]).shape
    except ALTERED as error:
        raise _invalid(path, error) from error
    config = _config(path, header, shape)
    return _network(path, config, shape, tensors, intact), config, header["info"]


def _network(
    path: Path, config: TrialConfig, shape: ImageShape, weights: dict[str, Tensor], intact: bool
) -> CRNN:
    """The network of a file, in evaluation mode. intact: whether the file's checksum is right."""
    with torch.device("meta"):
        network = CRNN(config.model, shape)
    _check_weights(path, network, weights)
    _check_intact(path, intact)
    model = CRNN(config.model, shape).to(memory_format=torch.channels_last)
    model.load_state_dict(weights)
    return model.eval()


def _save(path: Path, kind: str, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    # Safetensors writes memory as it is: channels_last weights must be made contiguous first.
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text = json.dumps(header)
    metadata = {"format": kind, "header": text, "sha256": _digest(text, contiguous)}
    path.parent.mkdir(exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(contiguous, metadata))


def _load(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor], bool]:
    """Header and tensors of a file of this kind, and whether its checksum is right."""
    if not path.exists():
        raise ModelFileError(f"{path} does not exist")
    if reason := unreadable(path):
        raise ModelFileError(f"{path} cannot be read: {reason}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") == kind:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                header = json.loads(metadata["header"])
    except Exception as error:  # of safetensors, of PyTorch for a dtype that it lacks, of JSON
        raise ModelFileError(
            f"{path} is truncated, altered or not a safetensors file: {first_line(error)}"
        ) from error
    if metadata.get("format") != kind:
        raise ModelFileError(
            f"the format of {path} must be {kind!r}, got {shown(metadata.get('format'))}"
        )
    if not isinstance(header, dict):
        raise _invalid(path, TypeError(f"it must be a mapping, got {type(header).__name__}"))
    return header, tensors, metadata.get("sha256") == _digest(metadata["header"], tensors)


def _digest(header: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a file's content. tensors: contiguous, on the CPU."""
    digest = hashlib.sha256(header.encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _config(path: Path, header: dict[str, Any], shape: ImageShape) -> TrialConfig:
    """The configuration, whose network can be built for such images."""
    try:
        check_types({"config": header["config"]}, {"config": "dict[str, Any]"})
        config = TrialConfig.from_dict(header["config"])
        config.model.check(shape)
    except ALTERED as error:
        raise _invalid(path, error, "configuration") from error
    return config


def _check_intact(path: Path, intact: bool) -> None:
    if not intact:
        raise ModelFileError(f"{path} was altered: its checksum is another")


def _invalid(path: Path, error: Exception, what: str = "header") -> ModelFileError:
    why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
    return ModelFileError(f"{path} has an invalid {what}: {why}")


def _check_weights(path: Path, network: CRNN, weights: Mapping[str, Tensor]) -> None:
    """Compare names, shapes and dtypes with those of the configuration's network."""
    expected = {name: _kind(value) for name, value in network.state_dict().items()}
    _check_kinds(path, expected, {name: _kind(value) for name, value in weights.items()})


def _check_kinds(path: Path, expected: Mapping[str, str], found: Mapping[str, str]) -> None:
    for name in sorted(expected.keys() | found.keys()):
        wanted, got = expected.get(name, "absent"), found.get(name, "absent")
        if got != wanted:
            raise ModelFileError(
                f"the tensors in {path} do not fit its configuration: {name} must be {wanted}, "
                f"got {got}"
            )


def _kind(value: Tensor) -> str:
    """Shape and dtype, for comparison and for messages."""
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"


def _moments(
    path: Path, optimizer: str, network: CRNN, tensors: Mapping[str, Tensor]
) -> dict[int, dict[str, Tensor]]:
    """The optimizer's state as PyTorch takes it: of all parameters, or empty before any step."""
    parameters = [_kind(value) for value in network.parameters()]
    found = _under("optimizer.", tensors)
    expected = {}
    for number, kind in enumerate(parameters if found else []):
        for name in _MOMENTS[optimizer]:
            expected[f"{number}.{name}"] = "float32 []" if name == "step" else kind
    _check_kinds(path, expected, {name: _kind(value) for name, value in found.items()})
    values: dict[int, dict[str, Tensor]] = {}
    for name, value in found.items():
        parameter, field = name.split(".")
        values.setdefault(int(parameter), {})[field] = value
    return values


def _match_layouts(optimizer: torch.optim.Optimizer) -> None:
    """Give loaded moments their parameters' memory layout.

    A fused optimizer reads both in memory order: it would misread contiguous moments of a
    channels_last weight, without an error.
    """
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter).copy_(value)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
