from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from crnn_search.data.mnist_sums import MnistSource
from crnn_search.errors import ModelFileError, StorageError
from crnn_search.hyperparameters import Arithmetic, ImageShape, TrialConfig
from crnn_search.training import checkpoint, engine
from crnn_search.training.engine import TrainingData
from tests.training.test_engine import CPU, SMALL, changed, reproducible

COLOUR = ImageShape(3, 12, 20)
SAME = changed(SMALL, padding="same")
"""For small images, too."""

TRIAL = {"name": "trial-0000", "seed": 4, "arithmetic": {"precision": "float32"}}
TASK = MnistSource(max_digits=8).info.to_dict()
INFO = {"task": TASK}


@pytest.mark.parametrize(
    "config",
    [
        changed(SMALL, dropout=0.3, affine=0.3),
        changed(SMALL, ema=0.95, reuse=2, feature_dropout=0.2, shift=0.3, elastic=0.3),
        changed(
            SMALL, optimizer="rmsprop", weight_decay=0.1, schedule="constant", batch_norm=False
        ),
    ],
)
def test_resumed_training_equals_an_uninterrupted_one(
    config: TrialConfig, training_data: TrainingData, tmp_path: Path
) -> None:
    data = dataclasses.replace(training_data, epoch_sequences=128)
    state = engine.start(config, seed=4, epochs=3, device=CPU)
    expected = []
    for epoch in (1, 2, 3):
        expected.append(reproducible(engine.train_epoch(state, data)))
        checkpoint.save_state(tmp_path / f"{epoch}.safetensors", state, TRIAL)
    for done in (1, 2):
        resumed = checkpoint.load_state(tmp_path / f"{done}.safetensors", CPU).state
        rest = [reproducible(engine.train_epoch(resumed, data)) for _ in range(3 - done)]
        assert rest == expected[done:]
        for name, value in resumed.model.state_dict().items():
            assert torch.equal(value, state.model.state_dict()[name])
        for name, value in resumed.result.state_dict().items():
            assert torch.equal(value, state.result.state_dict()[name])


def test_a_checkpoint_with_another_average_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "epoch-0001.safetensors"
    config = changed(SMALL, ema=0.9)
    checkpoint.save_state(path, engine.start(config, seed=4, epochs=3, device=CPU), TRIAL)
    for tensor in (None, torch.zeros(2)):
        rewrite(path, **{"average.output.bias": tensor})
        message = r"do not fit its configuration: output\.bias must be float32 \[1\]"
        with pytest.raises(ModelFileError, match=message):
            checkpoint.load_state(path, CPU)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_network_of_a_checkpoint_is_the_result_of_its_state(
    ema: float, training_data: TrainingData, tmp_path: Path
) -> None:
    path = tmp_path / "epoch-0001.safetensors"
    state = engine.start(changed(SMALL, ema=ema), seed=4, epochs=3, device=CPU)
    engine.train_epoch(state, training_data)
    checkpoint.save_state(path, state, TRIAL)
    network, config = checkpoint.load_network(path)
    assert config == state.config
    assert not network.training
    for name, value in state.result.state_dict().items():
        assert torch.equal(network.state_dict()[name], value)


def test_checkpoint_returns_trial_and_history(tmp_path: Path) -> None:
    state = engine.start(SMALL, seed=4, epochs=3, device=CPU)
    state.epoch, history = 1, [{"epoch": 1, "validation_rmse": 2.5}]
    path = tmp_path / "epoch-0001.safetensors"
    checkpoint.save_state(path, state, TRIAL, history)
    loaded = checkpoint.load_state(path, CPU, Arithmetic("bfloat16"))
    assert (loaded.trial, loaded.history) == (TRIAL, history)
    assert (loaded.state.config, loaded.state.seed) == (SMALL, 4)
    assert (loaded.state.epoch, loaded.state.epochs) == (1, 3)
    assert loaded.state.arithmetic == Arithmetic("bfloat16")
    assert loaded.state.model.precision == "bfloat16"


def test_model_file_returns_model_config_and_info(tmp_path: Path) -> None:
    model = engine.start(SMALL, seed=0, epochs=1, device=CPU).model
    path = tmp_path / "model.safetensors"
    checkpoint.save_model(path, model, SMALL, INFO | {"seed": 3})
    loaded, config, info = checkpoint.load_model(path)
    assert config == SMALL
    assert info == INFO | {"seed": 3}
    assert not loaded.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_files_state_the_shape_of_an_image(tmp_path: Path) -> None:
    state = engine.start(SAME, seed=0, epochs=1, device=CPU, shape=COLOUR)
    task = TASK | {"shape": list(COLOUR)}
    checkpoint.save_model(tmp_path / "model.safetensors", state.model, SAME, {"task": task})
    checkpoint.save_state(tmp_path / "epoch.safetensors", state, TRIAL)
    model = checkpoint.load_model(tmp_path / "model.safetensors")[0]
    assert model.shape == COLOUR
    assert checkpoint.load_state(tmp_path / "epoch.safetensors", CPU).state.model.shape == COLOUR


def stated(shape: Any) -> dict[str, Any]:
    """A model's header that states this shape."""
    return {"config": SAME.to_dict(), "info": {"task": TASK | {"shape": shape}}}


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([3, 20], "invalid header: image_shape must be 1 or 3 channels"),
        ([1, 12, 20], "do not fit its configuration: "),
        ([3, 20, 40], "do not fit its configuration: "),
        (None, "invalid header: image_shape must be 1 or 3 channels"),
    ],
)
def test_another_shape_is_refused(tmp_path: Path, shape: Any, message: str) -> None:
    path = tmp_path / "model.safetensors"
    network = engine.start(SAME, seed=0, epochs=1, device=CPU, shape=COLOUR).model
    checkpoint.save_model(path, network, SAME, INFO)
    rewrite(path, stated(shape))
    with pytest.raises(ModelFileError, match=message):
        checkpoint.load_model(path)


def test_a_network_that_leaves_no_pixels_is_refused(model_file: Path) -> None:
    deep = changed(SMALL, conv_channels=[2] * 6, pooling=2).to_dict()
    rewrite(model_file, {"config": deep, "info": INFO})
    with pytest.raises(ModelFileError, match="invalid configuration: convolution 3 leaves no pix"):
        checkpoint.load_model(model_file)
    config = changed(SMALL, padding="valid", kernel_size=9).to_dict()
    task = TASK | {"shape": [1, 8, 8]}
    rewrite(model_file, {"config": config, "info": {"task": task}})
    with pytest.raises(ModelFileError, match="invalid configuration: convolution 1 leaves no pix"):
        checkpoint.load_model(model_file)


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    model = engine.start(SMALL, seed=0, epochs=1, device=CPU).model
    checkpoint.save_model(path, model, SMALL, INFO)
    return path


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"model.safetensors does not exist"):
        checkpoint.load_model(tmp_path / "model.safetensors")


def test_text_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"hello")
    with pytest.raises(ModelFileError, match="truncated, altered or not a safetensors file"):
        checkpoint.load_model(path)


@pytest.mark.parametrize("removed", [1, 100, 5000, "all"])
def test_truncated_file_is_refused(model_file: Path, removed: int | str) -> None:
    content = model_file.read_bytes()
    model_file.write_bytes(b"" if removed == "all" else content[: -int(removed)])
    with pytest.raises(ModelFileError, match="truncated, altered or not a safetensors file"):
        checkpoint.load_model(model_file)


def test_altered_header_is_refused(model_file: Path) -> None:
    content = model_file.read_bytes()
    model_file.write_bytes(content.replace(b'\\"info\\"', b'\\"info\\\\', 1))
    with pytest.raises(ModelFileError, match="truncated, altered or not a safetensors file"):
        checkpoint.load_model(model_file)


def test_file_of_another_format_is_refused(model_file: Path) -> None:
    with pytest.raises(ModelFileError, match=r"must be 'crnn-search checkpoint 4', got '.* model"):
        checkpoint.load_state(model_file, CPU)


def test_invalid_configuration_is_refused(model_file: Path) -> None:
    content = model_file.read_bytes()
    model_file.write_bytes(content.replace(b"one_cycle", b"two_cycle"))
    with pytest.raises(ModelFileError, match="has an invalid configuration: schedule must be"):
        checkpoint.load_model(model_file)


def test_tensors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = engine.start(SMALL, seed=0, epochs=1, device=CPU).model
    path = tmp_path / "model.safetensors"
    checkpoint.save_model(path, model, changed(SMALL, gru_sizes=[5]), INFO)
    with pytest.raises(ModelFileError, match="do not fit its configuration"):
        checkpoint.load_model(path)


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    model = engine.start(SMALL, seed=0, epochs=1, device=CPU).model
    checkpoint.save_model(path, model, SMALL, INFO | {"version": 1})

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full_disk)
    with pytest.raises(StorageError, match="No space left"):
        checkpoint.save_model(path, model, SMALL, INFO | {"version": 2})
    assert checkpoint.load_model(path)[2]["version"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def rewrite(path: Path, header: Any = None, **tensors: Tensor | None) -> None:
    """Write a file again with another header or other tensors; None removes.

    header: JSON's values, or a text. The file has no checksum any more.
    """
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    content = {k: v for k, v in {**content, **tensors}.items() if v is not None}
    if header is not None:
        metadata["header"] = header if isinstance(header, str) else json.dumps(header)
    metadata.pop("sha256", None)
    save_file(content, path, metadata=metadata)


@pytest.mark.parametrize(
    "header",
    [
        [], "3", "null", '"text"', "{", "[" * 100_000, {}, {"config": []}, {"config": "conv"},
        {"config": {}}, {"config": {}, "info": []}, {"config": {}, "info": {}},
        {"config": {}, "info": {"task": []}}, {"config": {}, "info": {"task": "sums"}},
        {"config": {"dropuot": 1}, "info": INFO}, {"config": {"gru_sizes": {}}, "info": INFO},
        {"config": None, "info": INFO}, {"info": INFO},
        {"config": {}, "image_shape": [1, 28, 28], "info": {"max_digits": 8}},
    ],
)  # fmt: skip
def test_header_of_another_shape_is_refused(model_file: Path, header: Any) -> None:
    rewrite(model_file, header)
    with pytest.raises(
        ModelFileError, match=r"model\.safetensors (is truncated|has an invalid (header|conf))"
    ):
        checkpoint.load_model(model_file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": None}, "name must be of type str"),
        ({"sums": 1}, "sums must be of type bool"),
        ({"longest": 0}, "longest must be a whole number from 1 on, got 0"),
        ({"longest": True}, "longest must be of type int"),
        ({"scale": 0.0}, r"scale must be a positive number, got 0\.0"),
        ({"scale": float("nan")}, "scale must be of type float"),
        ({"center": float("inf")}, "center must be of type float"),
        ({"center": "0"}, "center must be of type float"),
        ({"unit": 3}, r"unit must be of type str \| None"),
        ({"weight": 3}, "unexpected keyword argument 'weight'"),
    ],
)
def test_an_altered_task_is_refused(model_file: Path, change: dict[str, Any], message: str) -> None:
    rewrite(model_file, {"config": SMALL.to_dict(), "info": {"task": TASK | change}})
    with pytest.raises(ModelFileError, match=f"has an invalid header: .*{message}"):
        checkpoint.load_model(model_file)


@pytest.mark.parametrize("name", TASK)
def test_a_task_without_a_value_is_refused(model_file: Path, name: str) -> None:
    task = {key: value for key, value in TASK.items() if key != name}
    rewrite(model_file, {"config": SMALL.to_dict(), "info": {"task": task}})
    with pytest.raises(ModelFileError, match=f"has an invalid header: it has no '{name}'"):
        checkpoint.load_model(model_file)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (None, r"output\.bias must be float32 \[1\], got absent"),
        (torch.zeros(2), r"output\.bias must be float32 \[1\], got float32 \[2\]"),
        (torch.zeros(()), r"got float32 \[\]"),
        (torch.zeros(1, dtype=torch.int8), r"got int8 \[1\]"),
        (torch.zeros(1, dtype=torch.float64), r"got float64 \[1\]"),
        (torch.zeros(1, dtype=torch.bfloat16), r"got bfloat16 \[1\]"),
        (torch.zeros(1, dtype=torch.complex64), r"got complex64 \[1\]"),
        (torch.zeros(1, dtype=torch.float8_e4m3fn), r"got float8_e4m3fn \[1\]"),
    ],
)
def test_tensors_of_another_shape_or_dtype_are_refused(
    model_file: Path, tensor: Tensor | None, message: str
) -> None:
    rewrite(model_file, **{"output.bias": tensor})
    with pytest.raises(ModelFileError, match=rf"do not fit its configuration: .*{message}"):
        checkpoint.load_model(model_file)


def test_a_huge_network_is_refused_before_it_is_built(model_file: Path) -> None:
    huge = {"conv_channels": [1024] * 6, "pooling": 1, "gru_sizes": [2048] * 4}
    rewrite(model_file, {"config": huge, "info": INFO})
    with pytest.raises(ModelFileError, match="do not fit its configuration"):
        checkpoint.load_model(model_file)


def test_altered_weights_are_refused(model_file: Path) -> None:
    content = bytearray(model_file.read_bytes())
    content[-3] ^= 1  # in the last tensor
    model_file.write_bytes(content)
    with pytest.raises(ModelFileError, match="was altered: its checksum is another"):
        checkpoint.load_model(model_file)


def test_a_model_or_checkpoint_without_a_checksum_is_refused(model_file: Path) -> None:
    rewrite(model_file)
    with pytest.raises(ModelFileError, match="was altered: its checksum is another"):
        checkpoint.load_model(model_file)
    path = model_file.with_name("epoch.safetensors")
    checkpoint.save_state(path, engine.start(SMALL, seed=0, epochs=1, device=CPU), TRIAL)
    rewrite(path)
    for load in (lambda: checkpoint.load_state(path, CPU), lambda: checkpoint.load_network(path)):
        with pytest.raises(ModelFileError, match="was altered: its checksum is another"):
            load()


@pytest.mark.parametrize("shape", [[28, 28], [2, 28, 28], "MNIST", None])
def test_network_for_images_of_another_shape_is_refused(trained: Path, shape: Any) -> None:
    with safe_open(trained, "pt") as file:
        header = json.loads(file.metadata()["header"])
    rewrite(trained, header | {"image_shape": shape})
    with pytest.raises(ModelFileError, match="has an invalid header: image_shape must be 1 or 3"):
        checkpoint.load_network(trained)


@pytest.fixture
def trained(training_data: TrainingData, tmp_path: Path) -> Path:
    """A checkpoint after an epoch."""
    state = engine.start(SMALL, seed=4, epochs=3, device=CPU)
    engine.train_epoch(state, dataclasses.replace(training_data, epoch_sequences=128))
    path = tmp_path / "epoch-0001.safetensors"
    checkpoint.save_state(path, state, TRIAL, [{"epoch": 1}])
    return path


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": "1"}, {"epoch": 4}, {"epoch": -1}, {"epochs": 0}, {"seed": None}, {"seed": 1.5},
        {"trial": []}, {"history": {}}, {"history": [1]}, {"epoch": True},
        {"image_shape": [28, 28]},
    ],
)  # fmt: skip
def test_altered_header_of_a_checkpoint_is_refused(trained: Path, change: dict[str, Any]) -> None:
    with safe_open(trained, "pt") as file:
        header = json.loads(file.metadata()["header"])
    rewrite(trained, header | change)
    with pytest.raises(ModelFileError, match="has an invalid header: "):
        checkpoint.load_state(trained, CPU)
    rewrite(trained, {name: value for name, value in header.items() if name not in change})
    with pytest.raises(ModelFileError, match="has an invalid header: it has no '"):
        checkpoint.load_state(trained, CPU)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("optimizer.0.step", None),
        ("optimizer.0.exp_avg", None),
        ("optimizer.0.exp_avg", torch.zeros(1)),
        ("optimizer.0.exp_avg", torch.zeros(1, dtype=torch.int64)),
        ("optimizer.99.step", torch.zeros(())),
        ("optimizer.first", torch.zeros(())),
        ("optimizer.0.momentum.x", torch.zeros(())),
    ],
)
def test_an_optimizer_of_another_shape_is_refused(
    trained: Path, name: str, tensor: Tensor | None
) -> None:
    rewrite(trained, **{name: tensor})
    with pytest.raises(ModelFileError, match="do not fit its configuration: "):
        checkpoint.load_state(trained, CPU)
