"""Model files: write a network in each format, and check each file's predictions against PyTorch.

- `safetensors`: weights and configuration, no code; read with this package.
- `onnx`: a small graph in one self-contained file, no code; read with any ONNX runtime.

`predictor` states the contract of both. Shapes: `S` sequences, `I` images.
"""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from crnn_search.data.own import at_most
from crnn_search.data.sequences import SequenceTable
from crnn_search.data.task import Task
from crnn_search.data.task_info import TaskInfo
from crnn_search.errors import InputError, RunError
from crnn_search.models import onnx_graph
from crnn_search.models.folder import FORMATS, ModelFolder
from crnn_search.models.info import ModelInfo
from crnn_search.models.pixel_ranges import PixelRanges
from crnn_search.models.predictor import Floats, Predictor, at_once, load, tolerance
from crnn_search.models.preprocessing import Preprocessing
from crnn_search.models.readme import readme
from crnn_search.models.torch_file import predictor_of
from crnn_search.storage import stages
from crnn_search.storage.files import read_json, write_json, write_text, writing
from crnn_search.storage.run_folder import RunFolder
from crnn_search.training import checkpoint
from crnn_search.training.model import CRNN

EXAMPLE_DIGITS = Path(__file__).parent / "example_digits.npz"
"""The pictures of `examples/digits`, prepared, with their sums."""

MEASURED = 10_000
"""Training images whose pixels are measured, at most."""

SHIPPED, SHIPPED_IMAGES = 3, 16
"""Sequences of a data set that go with its model, and images of each, at most."""

EXPORT_CHECK_SEQUENCES, EXPORT_CHECK_PIXELS = 1000, 60_000_000
"""Test sequences that a run's exported files are checked on, and pixels of their images, at most:
enough for 1,000 sequences of 64 of MNIST's digits."""


@dataclass(frozen=True)
class TrainedModel:
    """A network with what is known of it.

    ensemble: networks of other seeds, the network among them, whose mean is exported, too, with
    what is known of it; or None.
    """

    network: CRNN
    info: ModelInfo
    ensemble: tuple[Sequence[CRNN], ModelInfo] | None = None


@dataclass(frozen=True)
class Examples:
    """Sequences to check files on, at least one; the first `shipped` go with the model.

    images: uint8 `(I, C, H, W)`, of the network's shape.
    """

    images: Tensor
    table: SequenceTable
    shipped: int = 0


def export_winner(
    run: RunFolder, formats: Sequence[str], task: Task, metrics: Mapping[str, Any]
) -> dict[str, float]:
    """Write the winner of a run to the run's `model/` folder: its first seed, and all its seeds.

    task: with the test images. metrics: what `results.exported.metrics` gives. Returns and raises
    as `export`, and InputError if the run has not been retrained.
    """
    stages.check(run, stages.RETRAIN)
    entries = read_json(run.retrained)["winner"]
    networks, configs, infos = zip(
        *(checkpoint.load_model(run.root / entry["file"]) for entry in entries), strict=True
    )
    used = task.known_table().indices.unique().long()
    some = used[torch.linspace(0, len(used) - 1, min(len(used), MEASURED)).long()]
    known = read_json(run.manifest) if run.manifest.is_file() else {}
    info = ModelInfo(
        configs[0],
        task.info,
        Preprocessing.of(task.info),
        PixelRanges.of(task.images[some].cpu().numpy()),
        metrics.get("model", {}),
        training={key: value for key, value in infos[0].items() if key != "task"}
        | {key: known[key] for key in ("git_commit", "created", "versions") if key in known},
    )
    ensemble = None
    if len(networks) > 1:
        whole = replace(info, networks=len(networks), metrics=metrics.get("ensemble", {}))
        ensemble = networks, whole
    folder = ModelFolder(run.model)
    examples = Examples(task.images, check_table(task), SHIPPED)
    differences = export(TrainedModel(networks[0], info, ensemble), folder, formats, examples)
    files = (folder.config, folder.readme, folder.example, *map(folder.model, formats))
    if "ensemble" in differences:
        files = (*files, folder.ensemble)
    stages.record(run, stages.EXPORT, files, add=True)
    return differences


def check_table(task: Task) -> SequenceTable:
    """The test sequences that a run's exported files are checked on: the first ones.

    Of a sequence with too many pixels to predict at once, the first images.
    """
    shape = task.info.shape
    table = at_most(task.testing_table(), at_once(shape), "first")
    pixels = table.lengths.cumsum(0) * shape.rows * shape.columns
    count = max(1, int((pixels <= EXPORT_CHECK_PIXELS).sum()))
    return table.take(torch.arange(min(count, EXPORT_CHECK_SEQUENCES)))


def export(
    model: TrainedModel, folder: ModelFolder, formats: Sequence[str], examples: Examples
) -> dict[str, float]:
    """Write a model's files, `config.json`, `README.md` and examples: all of them or none.

    Returns for each file of a network the largest difference in a prediction to the PyTorch model,
    in the target's unit. Files that an earlier export wrote in other formats stay.

    Raises:
        InputError: `formats` is empty or has an unknown name.
        RunError: a file's predictions differ from the model's by more than `tolerance`.
        StorageError: the folder cannot be written.
    """
    if not formats or not set(formats) <= set(FORMATS):
        raise InputError(
            f"formats must be one or more of {', '.join(FORMATS)}, got {list(formats)}"
        )
    info, network = model.info, _plain_copy(model.network)
    differences = {}
    with writing(folder.root), _staging(folder) as staged:
        write_json(staged.config, {"config": info.config.to_dict(), "info": info.to_dict()})
        expected = _predictions(predictor_of(network, info), examples)
        if "safetensors" in formats:
            path = staged.model("safetensors")
            checkpoint.save_model(path, network, info.config, info.to_dict())
            differences["safetensors"] = _difference(path, examples, expected)
        if "onnx" in formats:
            path = staged.model("onnx")
            onnx.save_model(onnx_graph.build([network], info), path)
            differences["onnx"] = _difference(path, examples, expected)
        if "onnx" in formats and model.ensemble is not None:
            differences["ensemble"] = _write_ensemble(staged.ensemble, *model.ensemble, examples)
        _write_example(staged.example, info.task, examples)
        write_text(staged.readme, readme(network, info, model.ensemble and model.ensemble[1]))
    return differences


def _write_ensemble(
    path: Path, networks: Sequence[CRNN], info: ModelInfo, examples: Examples
) -> float:
    """Write the mean of networks; returns its largest difference to that of PyTorch's."""
    plain = [_plain_copy(network) for network in networks]
    onnx.save_model(onnx_graph.build(plain, info), path)
    each = [_predictions(predictor_of(network, info), examples) for network in plain]
    return _difference(path, examples, np.mean(each, axis=0, dtype=np.float32))


@contextlib.contextmanager
def _staging(folder: ModelFolder) -> Iterator[ModelFolder]:
    """A temporary folder whose files move into `folder` at the end, if nothing is raised."""
    folder.root.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder.root, prefix=".export-") as temporary:
            yield ModelFolder(Path(temporary))
            for path in Path(temporary).iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                path.replace(folder.root / path.name)
    finally:
        with contextlib.suppress(OSError):  # not empty: files were written
            folder.root.rmdir()


def _plain_copy(network: CRNN) -> CRNN:
    """The network as the formats store it: float32, contiguous, on the CPU."""
    plain = copy.deepcopy(network).eval().requires_grad_(False).float().cpu()
    return plain.to(memory_format=torch.contiguous_format)


def _predictions(predictor: Predictor, examples: Examples) -> Floats:
    """The predictions, `(S,)`. Sequences are padded with image 0, which is not blank."""
    predictions, table = [], examples.table
    rows_at_once = at_once(predictor.shape, table.indices.shape[1])
    for rows in torch.arange(len(table)).split(rows_at_once):
        lengths = table.lengths[rows]
        indices = table.indices[rows, : lengths.max()].long()
        images = examples.images[indices].cpu().float() / 255
        predictions.append(predictor(images.numpy(), lengths.numpy()))
    return np.concatenate(predictions)


def _difference(path: Path, examples: Examples, expected: Floats) -> float:
    """The largest difference of a file's predictions to others, if it is not more than allowed."""
    predictor = load(path)
    allowed = tolerance(predictor.task, expected)
    largest = float(np.abs(_predictions(predictor, examples) - expected).max())
    if not largest <= allowed:  # so that NaN is refused
        raise RunError(
            f"the predictions of {path.name} differ from the PyTorch model's by up to "
            f"{largest:.3g}, more than {allowed:g}; no file was written"
        )
    return largest


def _write_example(path: Path, task: TaskInfo, examples: Examples) -> None:
    """Write the sequences that go with the model: of the project's own making for MNIST's sums."""
    if task.sums:
        path.write_bytes(EXAMPLE_DIGITS.read_bytes())
        return
    table = examples.table.take(torch.arange(min(examples.shipped, len(examples.table))))
    table = at_most(table, SHIPPED_IMAGES, "first")
    images = examples.images[table.indices.long()].cpu().numpy()
    grey = task.shape.channels == 1
    with path.open("wb") as file:
        np.savez_compressed(
            file,
            allow_pickle=False,
            images=images[:, :, 0] if grey else np.moveaxis(images, 2, -1),
            lengths=table.lengths.numpy(),
            targets=table.targets.numpy(),
        )
