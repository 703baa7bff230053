"""Model files: write a network in each format, and check each file's predictions against PyTorch.

- `safetensors`: weights and configuration, no code; read with this package.
- `onnx`: a small graph in one self-contained file, no code; read with any ONNX runtime.

`predictor` states the contract of both. Shapes: `S` sequences, `I` images.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

import crnn_search
from crnn_search.data.own import at_most
from crnn_search.data.sequences import SequenceTable
from crnn_search.data.task import Task
from crnn_search.data.task_info import TaskInfo
from crnn_search.errors import InputError, RunError
from crnn_search.hyperparameters import TrialConfig
from crnn_search.models import onnx_graph
from crnn_search.models.folder import FORMATS, ModelFolder
from crnn_search.models.images import preprocessing
from crnn_search.models.predictor import Predictor, at_once, load, tolerance, torch_predictor
from crnn_search.models.readme import readme
from crnn_search.storage import stages
from crnn_search.storage.files import read_json, write_json, write_text, writing
from crnn_search.storage.run_folder import RunFolder
from crnn_search.training import checkpoint
from crnn_search.training.model import CRNN

EXPORT_CHECK_SEQUENCES, EXPORT_CHECK_PIXELS = 1000, 60_000_000
"""Test sequences that a run's exported files are checked on, and pixels of their images, at most:
enough for 1,000 sequences of 64 of MNIST's digits."""


@dataclass(frozen=True)
class TrainedModel:
    """A network, the configuration it was trained with, and whatever else JSON holds as `info`.

    `task` in `info` is what `TaskInfo.to_dict` gives.
    """

    network: CRNN
    config: TrialConfig
    info: dict[str, Any]

    @property
    def task(self) -> TaskInfo:
        """What the network predicts, from which images."""
        return TaskInfo.from_dict(self.info["task"])


def export_winner(run: RunFolder, formats: Sequence[str], task: Task) -> dict[str, float]:
    """Write the winner of a run, of its first seed, to the run's `model/` folder.

    task: with the test images. Returns and raises as `export`, and InputError if the run has not
    been retrained.
    """
    stages.check(run, stages.RETRAIN)
    entry = read_json(run.retrained)["winner"][0]
    winner = TrainedModel(*checkpoint.load_model(run.root / entry["file"]))
    folder = ModelFolder(run.model)
    differences = export(winner, folder, formats, task.images, check_table(task))
    files = (folder.config, folder.readme, *map(folder.model, formats))
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
    model: TrainedModel,
    folder: ModelFolder,
    formats: Sequence[str],
    images: Tensor,
    table: SequenceTable,
) -> dict[str, float]:
    """Write a model's files, `config.json` and `README.md` into `folder`: all of them or none.

    images: uint8 `(I, C, H, W)`, of the network's shape. table: sequences to check each file on, at
    least one.

    Returns for each format the largest difference in a prediction to the PyTorch model, in the
    target's unit. Files that an earlier export wrote in other formats stay.

    Raises:
        InputError: `formats` is empty or has an unknown name.
        RunError: a file's predictions differ from the model's by more than `tolerance`.
        StorageError: the folder cannot be written.
    """
    if not formats or not set(formats) <= set(FORMATS):
        raise InputError(
            f"formats must be one or more of {', '.join(FORMATS)}, got {list(formats)}"
        )
    task = model.task
    info = model.info | {"preprocessing": preprocessing(task)}
    model = replace(model, network=_plain_copy(model.network), info=info)
    expected = _predictions(torch_predictor(model.network, task), images, table)
    differences = {}
    with writing(folder.root), _staging(folder) as staged:
        write_json(staged.config, {"config": model.config.to_dict(), "info": info})
        for name in FORMATS:
            if name in formats:
                path = staged.model(name)
                _WRITERS[name](path, model)
                found = _predictions(load(path), images, table)
                differences[name] = _difference(name, found, expected, tolerance(task, expected))
        write_text(staged.readme, readme(model.config, task))
    return differences


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


def _predictions(predictor: Predictor, images: Tensor, table: SequenceTable) -> Tensor:
    """The predictions, `(S,)`. Sequences are padded with image 0, which is not blank."""
    predictions = []
    rows_at_once = at_once(predictor.shape, table.indices.shape[1])
    for rows in torch.arange(len(table)).split(rows_at_once):
        lengths = table.lengths[rows]
        indices = table.indices[rows, : lengths.max()].long()
        predictions.append(predictor(images[indices].cpu().float() / 255, lengths))
    return torch.cat(predictions)


def _difference(name: str, predictions: Tensor, expected: Tensor, allowed: float) -> float:
    """The largest difference of two predictions `(S,)`, if it is not more than allowed."""
    largest = (predictions - expected).abs().max().item()
    if not largest <= allowed:  # so that NaN is refused
        raise RunError(
            f"the {name} file's predictions differ from the PyTorch model's by up to "
            f"{largest:.3g}, more than {allowed:g}; no file was written"
        )
    return largest


def _write_safetensors(path: Path, model: TrainedModel) -> None:
    checkpoint.save_model(path, model.network, model.config, model.info)


def _write_onnx(path: Path, model: TrainedModel) -> None:
    metadata = {
        "config": json.dumps(model.config.to_dict()),
        "crnn_search_version": crnn_search.__version__,
        "preprocessing": model.info["preprocessing"],
    }
    onnx.save_model(onnx_graph.build(model.network, model.task, metadata), path)


_WRITERS: dict[str, Callable[[Path, TrainedModel], None]] = {
    "safetensors": _write_safetensors,
    "onnx": _write_onnx,
}
